"""Vanilla KD of two-stage detectors."""

import torch.nn.functional as F
from mmdet.models.roi_heads import CascadeRoIHead
from torch import Tensor, nn

from mmkd.losses.build import build_losses
from mmkd.losses.functional import reduce_mean

from .dense_criterion import DenseTargets
from .dense_heads import decode, flatten
from .pairing import shared_and_none
from .priors import why_priors_differ
from .two_stage_targets import (
    RoITargets,
    TwoStageTargets,
    box_heads,
    class_boxes,
    class_masks,
    mask_heads,
)

_RPN = ('loss_rpn_cls', 'loss_rpn_bbox')
_ROI = ('loss_cls', 'loss_bbox')


class TwoStageCriterion(nn.Module):
    """KD of both stages, the second on the student's sampled proposals pooled from both models.

    * ``loss_rpn_cls``, ``loss_rpn_bbox``: objectness and boxes at the RPN's anchors, as dense
      detectors have them: boxes are weighted by the teacher's objectness, both divided by ``max(1,
      mean over ranks of its sum over valid anchors)``.
    * ``loss_cls``: softmax KL over the shared classes and background, mean over RoIs; their number
      is averaged over ranks. RoIs of classes that the teacher does not know are out.
    * ``loss_bbox``: GIoU of decoded boxes, of the label's class on positives and of the teacher's
      best class on background, weighted by the teacher's probability of it; divided as the classes
      are.
    * ``loss_mask``, where both have masks: binary KL of the label's class, mean over the cells of
      positives.

    In a cascade, stage j learns from stage j, on the student's RoIs of that stage and with its loss
    weight. Where one cascade is longer, its further stages neither teach nor learn: they are made
    for boxes closer than the other's heads were trained on.

    Args:
        student: the student, read for its anchors, coders and stages.
        teacher: the teacher.
        losses: overrides by name; ``loss_weight`` inside is a ratio, ``None`` drops one.

    Raises:
        ValueError: if RPN losses are on and the anchors or their coders differ.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, losses: dict) -> None:
        super().__init__()
        defaults = dict(
            loss_rpn_cls=dict(type='KDQualityFocalLoss'),
            loss_rpn_bbox=dict(type='BoxKDLoss', iou='giou'),
            loss_cls=dict(type='KLDivergence'),
            loss_bbox=dict(type='BoxKDLoss', iou='giou'),
        )
        if mask_heads(student) and mask_heads(teacher):
            defaults['loss_mask'] = dict(type='BinaryKLDivergence')
        self.parts, self.loss_weights = build_losses(losses, defaults, ('label',))
        for name, loss in self.parts.items():
            if name != 'loss_cls' and 'label' in getattr(loss, 'asks', ()):
                raise ValueError(
                    f'LogitKD: {name}: {type(loss).__name__} asks for label, which only loss_cls '
                    'comes with; take another loss'
                )
        self.needs_labels = any(name not in _RPN for name in self.parts)  # to sample RoIs by
        if any(name in self.parts for name in _RPN):
            _check_priors(student.rpn_head, teacher.rpn_head)
        weights = [1.0]
        if isinstance(student.roi_head, CascadeRoIHead):
            weights = student.roi_head.stage_loss_weights
        self.stage_weights = weights[: len(box_heads(teacher))]

    def forward(self, student: dict, teacher: TwoStageTargets, match, lesson) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            student: raw outputs by kind, see :class:`mmkd.families.two_stage.TwoStage`.
            teacher: what the teacher says.
            match: which classes both know.
            lesson: the training step.
        """
        model, losses = lesson.student_model, {}
        if any(name in self.parts for name in _RPN):
            losses.update(self._on_anchors(model.rpn_head, student, teacher.rpn))
        if any(name in self.parts for name in _ROI):
            losses.update(self.on_rois(box_heads(model), student, teacher.stages, match))
        if 'loss_mask' in self.parts:
            losses['loss_mask'] = self._on_masks(mask_heads(model), student, teacher, match)
        return losses

    def _on_anchors(self, head: nn.Module, student: dict, teacher: DenseTargets) -> dict:
        count = reduce_mean(teacher.score.sum()).clamp(min=1.0)
        found = {}
        if 'loss_rpn_cls' in self.parts:
            logits = flatten(student['cls'], 1)
            found['loss_rpn_cls'] = self.parts['loss_rpn_cls'](
                logits, teacher.cls, weight=teacher.valid, avg_factor=count
            )
        if 'loss_rpn_bbox' in self.parts:
            boxes = decode(head, student['box'], training=True)
            found['loss_rpn_bbox'] = self.parts['loss_rpn_bbox'](
                boxes, teacher.boxes, weight=teacher.score, avg_factor=count
            )
        return {name: value * self.loss_weights[name] for name, value in found.items()}

    def on_rois(
        self, heads: list[nn.Module], student: dict, teacher: list[RoITargets], match
    ) -> dict[str, Tensor]:
        """Class and box losses on RoIs, summed over stages.

        Args:
            heads: by stage, the head whose coder and layout the boxes have.
            student: ``roi_cls`` and ``roi_box`` by stage.
            teacher: by stage, on the same RoIs.
            match: which classes both know.
        """
        losses = {}
        for i, (head, theirs, weight) in enumerate(zip(heads, teacher, self.stage_weights)):
            known = (theirs.labels >= 0).float()
            found = {}
            if 'loss_cls' in self.parts:
                loss = self.parts['loss_cls']
                asks = getattr(loss, 'asks', ())
                context = dict(label=theirs.labels) if 'label' in asks else {}
                logits = shared_and_none(student['roi_cls'][i], match.student)
                found['loss_cls'] = loss(logits, theirs.cls, mask=known, **context)
            if 'loss_bbox' in self.parts:
                boxes = class_boxes(
                    head, theirs.rois, student['roi_box'][i], theirs.chosen, match.student
                )
                found['loss_bbox'] = self.parts['loss_bbox'](
                    boxes, theirs.boxes, weight=theirs.score, avg_factor=reduce_mean(known.sum())
                )
            for name, value in found.items():
                value = value * (weight * self.loss_weights[name])
                losses[name] = losses.get(name, 0.0) + value
        return losses

    def _on_masks(
        self, heads: list[nn.Module], student: dict, teacher: TwoStageTargets, match
    ) -> Tensor:
        total = 0.0
        for head, ours, theirs, labels, weight in zip(
            heads, student['roi_mask'], teacher.masks, teacher.mask_labels, self.stage_weights
        ):
            ours = class_masks(head, ours, labels.clamp(min=0), match.student)
            if theirs.shape != ours.shape:
                theirs = F.interpolate(theirs[:, None], ours.shape[1:], mode='bilinear')[:, 0]
            cells = ours[0].numel() if len(ours) else 1
            known = (labels >= 0).float()
            value = self.parts['loss_mask'](
                ours.reshape(-1, 1), theirs.reshape(-1, 1),
                weight=known.repeat_interleave(cells),
                avg_factor=reduce_mean(known.sum()) * cells,
            )  # fmt: skip
            total = total + value * weight
        return total * self.loss_weights['loss_mask']


def _check_priors(ours: nn.Module, theirs: nn.Module) -> None:
    """Refuses RPNs that do not speak of the same anchors in the same terms.

    Raises:
        ValueError: on the first thing in which they differ.
    """
    if reason := why_priors_differ(ours, theirs):
        raise ValueError(
            f'LogitKD: of the RPNs, {reason}; write loss_rpn_cls=None, loss_rpn_bbox=None'
        )
