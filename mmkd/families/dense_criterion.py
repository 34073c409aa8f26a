"""Vanilla KD of dense detectors."""

from dataclasses import dataclass

import torch
from mmdet.models.dense_heads import GFLHead
from torch import Tensor, nn

from mmkd.losses.build import build_losses
from mmkd.losses.functional import reduce_mean

from .cells import valid_map
from .dense_assignment import num_positives
from .dense_heads import KINDS, class_logits, decode, flatten, stock_type

# What some heads say of each prior beside its class and box, and the loss on it.
_BESIDES = dict(loss_centerness='centerness', loss_iou='iou', loss_obj='objectness')


@dataclass
class DenseTargets:
    """What a teacher says of a batch; priors are flat, ``M = B * sum(H * W * A)``.

    Attributes:
        cls: class logits of the shared classes ``[M, K]``.
        score: highest final score, 0 at priors that teach nothing ``[M]``.
        valid: 1 at priors that may teach ``[M]``.
        there: 1, or what YOLOX's objectness says, without which its classes mean nothing ``[M]``.
        boxes: decoded boxes in pixels ``[M, 4]``.
        bins: GFL's bin logits ``[M * 4, n + 1]``, or ``None``.
        besides: logits of centerness, IoU or objectness by kind ``[M]``.
        rows: how many priors each level has in the batch.
    """

    cls: Tensor
    score: Tensor
    valid: Tensor
    there: Tensor
    boxes: Tensor
    bins: Tensor | None
    besides: dict[str, Tensor]
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
            there=pick(self.there),
            boxes=pick(self.boxes),
            bins=pick(self.bins, 4),
            besides={kind: pick(x) for kind, x in self.besides.items()},
            rows=tuple(self.rows[level] for level in levels),
        )


class DenseCriterion(nn.Module):
    """Class KD by the quality-focal loss (CrossKD, 2024) and boxes by GIoU to the teacher's boxes.

    Boxes, GFL's bins, the centerness of FCOS and ATSS and PAA's IoU are weighted by the teacher's
    highest score. YOLOX's classes and objectness are compared apart, both by the KL of their
    sigmoids, the classes weighted by the teacher's objectness (as Mehta and Ozturk, 2018, scale
    theirs): where nothing is, its classes have never been taught. Everything is divided by one N
    over all levels: ``max(1, mean over ranks of the sum of that score over valid priors)``, or by
    the number of positives.

    Args:
        student_head: the student's head, read for its priors and coder.
        teacher_head: the teacher's.
        losses: overrides by name (``loss_cls``, ``loss_bbox``, ``loss_dfl``, ``loss_centerness``,
            ``loss_iou``, ``loss_obj``; ``loss_weight`` inside is a ratio) and
            ``avg_factor='teacher_score' | 'num_pos'``.
    """

    divisors = ('teacher_score', 'num_pos')

    def __init__(self, student_head, teacher_head, losses: dict) -> None:
        super().__init__()
        losses = dict(losses)
        self.avg_factor = losses.pop('avg_factor', self.divisors[0])
        if self.avg_factor not in self.divisors:
            raise ValueError(
                f'LogitKD: avg_factor={self.avg_factor!r} must be '
                f'{" or ".join(repr(x) for x in self.divisors)}'
            )
        self.needs_labels = self.avg_factor == 'num_pos'
        both = losses_besides(student_head) & losses_besides(teacher_head)
        defaults = self.defaults(stock_type(teacher_head), both)
        self.parts, self.loss_weights = build_losses(losses, defaults)

    def defaults(self, head: type, besides: set[str]) -> dict[str, dict | None]:
        """Loss configs by name.

        Args:
            head: the type of the teacher's head.
            besides: names of the losses on what both heads say beside class and box.
        """
        losses = dict(
            loss_cls=dict(type='KDQualityFocalLoss'), loss_bbox=dict(type='BoxKDLoss', iou='giou')
        )
        if head is GFLHead:
            losses['loss_dfl'] = dict(type='LDLoss', tau=1.0)
        if 'loss_obj' in besides:
            losses['loss_cls'] = dict(type='BinaryKLDivergence')
        return {**losses, **{name: dict(type='BinaryKLDivergence') for name in sorted(besides)}}

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
        counts = {
            rule: reduce_mean(self.count(rule, teacher, lesson)).clamp(min=1.0)
            for rule in dict.fromkeys(map(self.rule, self.parts))
        }
        if levels is not None:
            teacher = teacher.at(levels)
        values = {}
        for name, loss in self.parts.items():
            weight, count = self.weight(name, teacher, lesson), counts[self.rule(name)]
            if name == 'loss_cls':
                ours = shared(flatten(class_logits(head, student), head.cls_out_channels), dim=1)
                theirs = teacher.cls
            elif name == 'loss_bbox':
                ours = decode(head, student['box'], teacher_head is None, levels)
                theirs = teacher.boxes
            elif name == 'loss_dfl':
                ours, theirs = flatten(student['box'], head.reg_max + 1), teacher.bins
                weight, count = weight.repeat_interleave(4), count * 4
            else:
                ours = flatten(student[_BESIDES[name]], 1)
                theirs = teacher.besides[_BESIDES[name]][:, None]
            value = loss(ours, theirs, weight=weight, avg_factor=count)
            values[name] = value * self.loss_weights[name]
        return values

    def rule(self, name: str) -> str:
        """What a loss is divided by."""
        return self.avg_factor

    def weight(self, name: str, teacher: DenseTargets, lesson) -> Tensor:
        """What each prior counts in a loss ``[M]``."""
        if name == 'loss_cls':
            return teacher.valid * teacher.there
        return teacher.valid if name == 'loss_obj' else teacher.score

    def count(self, rule: str, teacher: DenseTargets, lesson) -> Tensor:
        """A divisor on this rank."""
        if rule == 'teacher_score':
            return teacher.score.sum()
        head, targets = lesson.student_model.bbox_head, lesson.student.predictions.targets
        return torch.as_tensor(num_positives(head, targets)).to(teacher.score)


def losses_besides(head: nn.Module) -> set[str]:
    """Names of the losses on what a head says of each prior beside its class and box."""
    return {name for name, kind in _BESIDES.items() if kind in KINDS[stock_type(head)]}


@torch.no_grad()
def dense_targets(head: nn.Module, outputs: dict, match, lesson) -> DenseTargets:
    """Reads a teacher's raw outputs once for every term and exit that listens to it.

    Args:
        head: the teacher's head; in training mode where the student is its own teacher.
        outputs: its raw outputs by kind.
        match: which classes both know.
        lesson: the training step.
    """
    classes, priors = head.cls_out_channels, head.prior_generator.num_base_priors[0]
    cls = match.teacher(flatten(class_logits(head, outputs), classes), dim=1)
    valid = [valid_map(lesson, x).expand(-1, priors, -1, -1) for x in outputs['cls']]
    rows = tuple(x.numel() for x in valid)
    valid = flatten(valid, 1)[:, 0]
    besides = {k: flatten(outputs[k], 1)[:, 0] for k in _BESIDES.values() if k in outputs}
    there = besides['objectness'].sigmoid() if 'objectness' in besides else torch.ones_like(valid)
    is_gfl = stock_type(head) is GFLHead
    return DenseTargets(
        cls=cls,
        score=cls.amax(1).sigmoid() * there * valid,
        valid=valid,
        there=there,
        boxes=decode(head, outputs['box'], head.training),
        bins=flatten(outputs['box'], head.reg_max + 1) if is_gfl else None,
        besides=besides,
        rows=rows,
    )
