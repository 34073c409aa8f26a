"""Vanilla KD of segmentors."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.build import build_losses
from mmkd.losses.functional import reduce_mean


class SegmentorCriterion(nn.Module):
    """Pixel-wise KL between class distributions (Hinton et al., 2015), at the coarser logit size.

    The finer of the two logit maps is resized bilinearly to the coarser; ignored and padded pixels
    are out, and the mean is over valid pixels of all ranks. Heads with one output map use the
    binary form.

    Args:
        binary: whether the head has ``out_channels=1``.
        align_corners: how the head resizes its logits.
        losses: overrides, ``dict(loss_seg=dict(type='KLDivergence', tau=4))``.
        gives: what a loss may ask for, where classes are told apart by a softmax.
    """

    def __init__(
        self, binary: bool, align_corners: bool, losses: dict, gives: tuple[str, ...] = ('label',)
    ) -> None:
        super().__init__()
        self.binary = binary
        self.align_corners = align_corners
        kind = 'BinaryKLDivergence' if binary else 'KLDivergence'
        self.parts, self.loss_weights = build_losses(
            losses, dict(loss_seg=dict(type=kind)), () if binary else gives, by_rows=binary
        )

    def forward(self, student: dict, teacher: dict, match, lesson) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            student: ``dict(seg=[logits [B, K, h, w]])``.
            teacher: the same, ``[B, K', h', w']``.
            match: which classes both know.
            lesson: the training step, asked for valid cells.
        """
        ours, theirs = student['seg'][0].float(), teacher['seg'][0].float()
        if not self.binary:
            ours, theirs = match.student(ours, dim=1), match.teacher(theirs, dim=1)
        size = tuple(min(a, b) for a, b in zip(ours.shape[-2:], theirs.shape[-2:]))
        ours, theirs = self._resize(ours, size), self._resize(theirs, size)
        mask = lesson.valid_cells(size)
        if self.binary:
            weight = mask.permute(0, 2, 3, 1).reshape(-1).float()
            rows = [x.permute(0, 2, 3, 1).reshape(-1, 1) for x in (ours, theirs)]
            total = reduce_mean(weight.sum()).clamp(min=1e-6)
            value = self.parts['loss_seg'](*rows, weight=weight, avg_factor=total)
        else:
            loss, context = self.parts['loss_seg'], {}
            if 'label' in getattr(loss, 'asks', ()):
                context = lesson.context(['label'], size, None)
                context['label'] = match.label(context['label'])
            value = loss(ours, theirs, mask=mask, **context)
        return dict(loss_seg=value * self.loss_weights['loss_seg'])

    def _resize(self, logits: Tensor, size) -> Tensor:
        if tuple(logits.shape[-2:]) == size:
            return logits
        return F.interpolate(logits, size, mode='bilinear', align_corners=self.align_corners)
