"""Vanilla KD of dense detectors."""

import math
from dataclasses import dataclass

import torch
from mmdet.models.dense_heads import FCOSHead, GFLHead
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from mmkd.losses.build import build_losses
from mmkd.losses.functional import reduce_mean


@dataclass
class DenseTargets:
    """What a teacher says of a batch; priors are flat, ``M = B * sum(H * W * A)``.

    Attributes:
        cls: class logits of the shared classes ``[M, K]``.
        score: highest class score, 0 at priors that teach nothing ``[M]``.
        valid: 1 at priors that may teach ``[M]``.
        boxes: decoded boxes in pixels ``[M, 4]``.
        bins: GFL's bin logits ``[M * 4, n + 1]``, or ``None``.
        centerness: logits ``[M]``, or ``None``.
        rows: how many priors each level has in the batch.
    """

    cls: Tensor
    score: Tensor
    valid: Tensor
    boxes: Tensor
    bins: Tensor | None
    centerness: Tensor | None
    rows: tuple[int, ...]

    def at(self, levels: tuple[int, ...]) -> 'DenseTargets':
        """What it says at some levels, in their order."""

        def pick(x: Tensor | None, per_row: int = 1) -> Tensor | None:
            if x is None:
                return None
            parts = x.split([n * per_row for n in self.rows])
            return torch.cat([parts[level] for level in levels])

        return DenseTargets(
            cls=pick(self.cls),
            score=pick(self.score),
            valid=pick(self.valid),
            boxes=pick(self.boxes),
            bins=pick(self.bins, 4),
            centerness=pick(self.centerness),
            rows=tuple(self.rows[level] for level in levels),
        )


class DenseCriterion(nn.Module):
    """Class KD by the quality-focal loss (CrossKD, 2024) and boxes by GIoU to the teacher's boxes.

    Boxes, GFL's bins and FCOS/ATSS's centerness are weighted by the teacher's highest class score.
    Everything is divided by one N over all levels: ``max(1, mean over ranks of the sum of that
    score over valid priors)``, or by the number of positives.

    Args:
        student_head: the student's head, read for its priors and coder.
        teacher_head: the teacher's.
        losses: overrides by name (``loss_cls``, ``loss_bbox``, ``loss_dfl``, ``loss_centerness``;
            ``loss_weight`` inside is a ratio) and ``avg_factor='teacher_score' | 'num_pos'``.
    """

    def __init__(self, student_head, teacher_head, losses: dict) -> None:
        super().__init__()
        losses = dict(losses)
        self.avg_factor = losses.pop('avg_factor', 'teacher_score')
        if self.avg_factor not in ('teacher_score', 'num_pos'):
            raise ValueError(
                f"LogitKD: avg_factor={self.avg_factor!r} must be 'teacher_score' or 'num_pos'"
            )
        defaults = dict(
            loss_cls=dict(type='KDQualityFocalLoss'), loss_bbox=dict(type='BoxKDLoss', iou='giou')
        )
        if isinstance(student_head, GFLHead):
            defaults['loss_dfl'] = dict(type='LDLoss', tau=1.0)
        if has_centerness(student_head) and has_centerness(teacher_head):
            defaults['loss_centerness'] = dict(type='BinaryKLDivergence')
        self.parts, self.loss_weights = build_losses(losses, defaults)

    def forward(
        self, student: dict, teacher: DenseTargets, match, lesson, teacher_head=None, levels=None
    ) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            student: raw outputs by kind.
            teacher: the teacher's targets, see :func:`dense_targets`.
            match: which classes both know.
            lesson: the training step.
            teacher_head: where ``student`` was made by the teacher's own head, that head.
            levels: where ``student`` holds some of the head's levels only, which; N stays that of
                all levels.
        """
        if teacher_head is None:
            head, shared = lesson.student_model.bbox_head, match.student
        else:
            head, shared = teacher_head, match.teacher
        count = self._normaliser(teacher, lesson)
        if levels is not None:
            teacher = teacher.at(levels)
        values = {}
        for name, loss in self.parts.items():
            if name == 'loss_cls':
                logits = shared(_flatten(student['cls'], head.cls_out_channels), dim=1)
                value = loss(logits, teacher.cls, weight=teacher.valid, avg_factor=count)
            elif name == 'loss_bbox':
                boxes = decode(head, student['box'], teacher_head is None, levels)
                value = loss(boxes, teacher.boxes, weight=teacher.score, avg_factor=count)
            elif name == 'loss_dfl':
                bins = _flatten(student['box'], head.reg_max + 1)
                weight = teacher.score.repeat_interleave(4)
                value = loss(bins, teacher.bins, weight=weight, avg_factor=count * 4)
            else:
                logits = _flatten(student['centerness'], 1)
                value = loss(
                    logits, teacher.centerness[:, None], weight=teacher.score, avg_factor=count
                )
            values[name] = value * self.loss_weights[name]
        return values

    def _normaliser(self, teacher: DenseTargets, lesson) -> Tensor:
        if self.avg_factor == 'teacher_score':
            count = teacher.score.sum()
        else:
            targets = lesson.student.predictions.targets
            if isinstance(targets[-1], (int, float)):
                count = teacher.score.new_tensor(float(targets[-1]))
            else:
                labels = torch.cat([x.reshape(-1) for x in targets[0]])
                known = lesson.student_model.bbox_head.num_classes
                count = ((labels >= 0) & (labels < known)).sum().float()
        return reduce_mean(count).clamp(min=1.0)


@torch.no_grad()
def dense_targets(head: nn.Module, outputs: dict, match, lesson) -> DenseTargets:
    """Reads a teacher's raw outputs once for every term and exit that listens to it.

    Args:
        head: the teacher's head; in training mode where the student is its own teacher.
        outputs: its raw outputs by kind.
        match: which classes both know.
        lesson: the training step.
    """
    cls = match.teacher(_flatten(outputs['cls'], head.cls_out_channels), dim=1)
    valid, rows = [], []
    for maps in outputs['cls']:
        cells = maps.shape[0], *maps.shape[-2:], head.num_base_priors
        rows.append(math.prod(cells))
        mask = lesson.valid_cells(maps.shape[-2:])
        if mask is None:
            valid.append(cls.new_ones(cells).flatten())
        else:
            valid.append(mask[:, 0, :, :, None].expand(cells).reshape(-1).float())
    valid = torch.cat(valid)
    is_gfl = isinstance(head, GFLHead)
    return DenseTargets(
        cls=cls,
        score=cls.amax(1).sigmoid() * valid,
        valid=valid,
        boxes=decode(head, outputs['box'], head.training),
        bins=_flatten(outputs['box'], head.reg_max + 1) if is_gfl else None,
        centerness=_flatten(outputs['centerness'], 1)[:, 0] if 'centerness' in outputs else None,
        rows=tuple(rows),
    )


def decode(head: nn.Module, maps: list[Tensor], training: bool, levels=None) -> Tensor:
    """Boxes in pixels ``[M, 4]`` from raw box maps, by the head's own priors and coder.

    Args:
        head: the head that made the maps.
        maps: per level ``[B, A*4, H, W]`` (GFL: ``[B, 4*(n+1), H, W]``).
        training: whether the head was in training mode (FCOS then leaves out the stride).
        levels: which of the head's levels the maps are; ``None``: all.
    """
    generator = head.prior_generator
    boxes = []
    for level, raw in zip(levels or range(len(maps)), maps, strict=True):
        stride = generator.strides[level][0]
        prior = generator.single_level_grid_priors(
            tuple(raw.shape[-2:]), level, dtype=torch.float32, device=raw.device
        )
        prior = get_box_tensor(prior).repeat(raw.shape[0], 1)
        if isinstance(head, GFLHead):
            prior = head.anchor_center(prior)
            value = head.integral(_flatten([raw], 4 * (head.reg_max + 1))) * stride
        else:
            value = _flatten([raw], 4)
            if isinstance(head, FCOSHead) and training and head.norm_on_bbox:
                value = value * stride
        boxes.append(get_box_tensor(head.bbox_coder.decode(prior, value)))
    return torch.cat(boxes)


def has_centerness(head: nn.Module) -> bool:
    """Whether a head predicts centerness beside classes and boxes (FCOS, ATSS)."""
    return hasattr(head, 'loss_centerness')


def _flatten(maps: list[Tensor], width: int) -> Tensor:
    """Maps ``[B, A*width, H, W]`` by level -> fp32 rows ``[M, width]``."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, width) for x in maps]).float()
