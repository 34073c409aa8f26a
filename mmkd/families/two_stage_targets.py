"""What a two-stage teacher says on a student's proposals."""

import weakref
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from .dense_criterion import DenseTargets, dense_targets
from .pairing import shared_and_none


class _Rows:
    """A dataclass of tensors over the same rows."""

    def at(self, rows: Tensor):
        """Some of the rows, by number."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass
class RoIs(_Rows):
    """A student's sampled proposals at one stage, image by image, and what its labels say.

    Attributes:
        boxes: number of the image, and corners in pixels ``[R, 5]``.
        labels: the student's class, ``K`` for background ``[R]``.
        label_weights: ``[R]``.
        box_targets: as the box head learns them ``[R, 4]``.
        box_weights: ``[R, 4]``.
    """

    boxes: Tensor
    labels: Tensor
    label_weights: Tensor
    box_targets: Tensor
    box_weights: Tensor

    def spread(self, count: int) -> Tensor:
        """Numbers of up to ``count`` rows an image, evenly spread: shares of labels stay."""
        images = self.boxes[:, 0]
        rows = [images.new_zeros(0, dtype=torch.long)]
        for image in images.unique():
            own = (images == image).nonzero()[:, 0]
            some = min(count, len(own))
            rows.append(own[torch.arange(some, device=own.device) * len(own) // some])
        return torch.cat(rows)


@dataclass
class RoITargets(_Rows):
    """What a teacher says of a student's RoIs at one stage; classes are the shared ones.

    Attributes:
        rois: number of the image, and corners in pixels ``[R, 5]``.
        labels: shared class by the labels, ``K`` for background, -1 where the teacher does not
            know the class: such a RoI teaches nothing ``[R]``.
        cls: logits, background last ``[R, K+1]``.
        chosen: the labels' class, or for background the teacher's best ``[R]``.
        score: the teacher's probability of it, 0 at RoIs that teach nothing or have no area
            ``[R]``.
        boxes: the teacher's box for it, in pixels ``[R, 4]``.
    """

    rois: Tensor
    labels: Tensor
    cls: Tensor
    chosen: Tensor
    score: Tensor
    boxes: Tensor


class TwoStageTargets:
    """What a teacher says of a batch; each part is computed once, when first asked for.

    RoI heads run in fp32: mmcv pools neither bfloat16 nor channels-last maps.

    Args:
        model: the teacher.
        outputs: its RPN's maps and its features; of a student that is its own teacher, all that
            :class:`mmkd.families.two_stage.TwoStage` hears of it.
        match: which classes both know.
        lesson: the training step, asked for the student's RoIs.
    """

    def __init__(self, model: nn.Module, outputs: dict, match, lesson) -> None:
        self._model = model
        self._outputs = outputs
        self._match = match
        self._lesson = weakref.proxy(lesson)  # which keeps this: a cycle would outlive the step
        self._rois: tuple[RoIs, ...] = lesson.student.predictions.context

    @cached_property
    def rpn(self) -> DenseTargets:
        """Objectness and boxes at the RPN's anchors."""
        return dense_targets(self._model.rpn_head, self._outputs, _Objectness, self._lesson)

    @cached_property
    @torch.no_grad()
    def stages(self) -> list[RoITargets]:
        """Classes and boxes of each stage that both have: stage by stage, from the first."""
        return [self._stage(i, x) for i, x in self._shared_stages(box_heads(self._model))]

    @cached_property
    @torch.no_grad()
    def masks(self) -> list[Tensor]:
        """Mask logits of the label's class, of each shared stage's positives ``[F, h, w]``."""
        masks = []
        for stage, labels in enumerate(self.mask_labels):
            rois = self._rois[stage].boxes[self._positive(self._rois[stage])]
            result = self._run('_mask_forward', stage, rois)['mask_preds']
            head = mask_heads(self._model)[stage]
            masks.append(class_masks(head, result, labels.clamp(min=0), self._match.teacher))
        return masks

    @cached_property
    def mask_labels(self) -> list[Tensor]:
        """Shared class of each shared stage's positives ``[F]``; -1: not shared."""
        shared = self._shared_stages(mask_heads(self._model))
        return [self._labels(rois)[self._positive(rois)] for _, rois in shared]

    def _positive(self, rois: RoIs) -> Tensor:
        """Which RoIs the student's mask head sees."""
        heads = box_heads(self._lesson.student_model)
        return rois.labels < heads[0].num_classes

    def _shared_stages(self, heads: list[nn.Module]) -> list[tuple[int, RoIs]]:
        return list(enumerate(self._rois[: len(heads)]))

    def _stage(self, stage: int, rois: RoIs) -> RoITargets:
        head = box_heads(self._model)[stage]
        cls, deltas = self._raw(stage, rois.boxes)
        cls = shared_and_none(cls, self._match.teacher)
        labels = self._labels(rois)
        known = (labels >= 0) & (labels < cls.shape[1] - 1)
        probabilities = cls.softmax(1)
        chosen = torch.where(known, labels, probabilities[:, :-1].argmax(1))
        sides = rois.boxes[:, 3:] - rois.boxes[:, 1:3]
        # a refined RoI may have been clipped to nothing, and so would every box on it
        teaches = (labels >= 0) & (sides > 0).all(1)
        score = probabilities.gather(1, chosen[:, None])[:, 0] * teaches
        boxes = class_boxes(head, rois.boxes, deltas, chosen, self._match.teacher)
        return RoITargets(rois.boxes, labels, cls, chosen, score, boxes)

    def _raw(self, stage: int, rois: Tensor) -> tuple[Tensor, Tensor]:
        if 'roi_cls' in self._outputs:  # the student is its own teacher
            return self._outputs['roi_cls'][stage], self._outputs['roi_box'][stage]
        result = self._run('_bbox_forward', stage, rois)
        return result['cls_score'], result['bbox_pred']

    def _labels(self, rois: RoIs) -> Tensor:
        """Numbers among the shared classes; after the last: background; -1: not shared."""
        heads = box_heads(self._lesson.student_model)
        background = rois.labels == heads[0].num_classes
        return self._match.label(rois.labels).masked_fill(background, len(self._match.names))

    @cached_property
    def _features(self) -> tuple[Tensor, ...]:
        return tuple(x.float().contiguous() for x in self._outputs['features'])

    def _run(self, method: str, stage: int, rois: Tensor) -> dict:
        head = self._model.roi_head
        stages = (stage,) if isinstance(head, CascadeRoIHead) else ()
        with torch.autocast(rois.device.type, enabled=False):
            return getattr(head, method)(*stages, self._features, rois)


class _Objectness:
    """The match of an RPN's one class."""

    @staticmethod
    def teacher(x: Tensor, dim: int) -> Tensor:
        return x


def class_boxes(head: nn.Module, rois: Tensor, deltas: Tensor, chosen: Tensor, shared) -> Tensor:
    """Boxes in pixels ``[R, 4]`` of one shared class a RoI, by the head's own coder.

    Args:
        head: the box head.
        rois: ``[R, 5]``.
        deltas: ``[R, K*4]``, or ``[R, 4]`` where boxes know no class.
        chosen: number of a shared class ``[R]``.
        shared: selects the shared classes along ``dim``.
    """
    deltas = deltas.float().unflatten(1, (-1, 4))
    if head.reg_class_agnostic:
        deltas = deltas[:, 0]
    else:
        rows = torch.arange(len(chosen), device=chosen.device)
        deltas = shared(deltas, dim=1)[rows, chosen]
    return get_box_tensor(head.bbox_coder.decode(rois[:, 1:], deltas))


def class_masks(head: nn.Module, masks: Tensor, labels: Tensor, shared) -> Tensor:
    """Mask logits ``[F, h, w]`` of one shared class a RoI, of ``[F, K, h, w]``."""
    if head.class_agnostic:
        return masks[:, 0].float()
    rows = torch.arange(len(labels), device=labels.device)
    return shared(masks, dim=1)[rows, labels].float()


def box_heads(model: nn.Module) -> list[nn.Module]:
    """The box head of each stage."""
    head = model.roi_head.bbox_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def mask_heads(model: nn.Module) -> list[nn.Module]:
    """The mask head of each stage; none in a detector of boxes alone."""
    if not model.roi_head.with_mask:
        return []
    head = model.roi_head.mask_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]
