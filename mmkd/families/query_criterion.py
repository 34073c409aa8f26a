"""Vanilla KD of query-based detectors."""

from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmkd.losses.build import build_losses
from mmkd.losses.functional import reduce_mean

from .pairing import pick
from .query_group import TeacherQueries
from .query_match import match_queries
from .query_targets import QueryTargets, by_softmax, shared_classes

_OPTIONS = dict(matching=('hungarian', 'queries'), teacher_layers=('depth', 'last'))


class QueryCriterion(nn.Module):
    """Layer by layer, each query of the teacher teaches one of the student's.

    Classes by the binary KL (of heads with a softmax: the KL over K + 1 classes), boxes by L1
    (times 5) and GIoU (times 2), each pair weighted by the teacher's highest class score and
    everything divided by one N over all layers: ``max(1, mean over ranks of the sum of those
    scores)``. Which query is taught by which:

    * ``matching='hungarian'``: the teacher's ``top`` queries of highest score are matched with the
      student's (DETRDistill: Chang et al., ICCV 2023, which matches all of them, sums over layers
      instead of averaging, and weighs sure and unsure queries alike);
    * ``matching='queries'``: the teacher's own queries are put to the student's decoder, as a group
      that sees only itself; pairs are then known (KD-DETR: Wang et al., CVPR 2024).

    Args:
        student: the student.
        teacher: the teacher.
        losses: overrides by name (``loss_cls``, ``loss_bbox``, ``loss_iou``; ``loss_weight`` inside
            is a ratio) and the options ``matching``, ``teacher_layers`` (``'depth'``: layer j of L
            is taught by the teacher's at the same share of its depth; ``'last'``: by its last) and
            ``top`` (100; ``None``: all).

    Raises:
        ValueError: on an option that does not exist, or queries that the student's decoder cannot
            take.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, losses: dict) -> None:
        super().__init__()
        losses = dict(losses)
        self.matching = losses.pop('matching', 'hungarian')
        self.teacher_layers = losses.pop('teacher_layers', 'depth')
        self.top = losses.pop('top', 100)
        for name, known in _OPTIONS.items():
            if getattr(self, name) not in known:
                raise ValueError(f'LogitKD: {name}={getattr(self, name)!r} must be one of {known}')
        whole = isinstance(self.top, int) and not isinstance(self.top, bool)
        if self.top is not None and not (whole and self.top > 0):
            raise ValueError(f'LogitKD: top={self.top!r} must be a number of queries, or None: all')
        self.softmax = by_softmax(student.bbox_head)
        kind = 'KLDivergence' if self.softmax else 'BinaryKLDivergence'
        defaults = dict(
            loss_cls=dict(type=kind),
            loss_bbox=dict(type='mmdet.L1Loss', loss_weight=5.0),
            loss_iou=dict(type='BoxKDLoss', iou='giou', loss_weight=2.0),
        )
        self.parts, self.loss_weights = build_losses(losses, defaults)
        own = self.matching == 'queries'
        self.group = TeacherQueries(student, teacher) if own else nn.Module()

    def forward(self, student: dict, teacher: QueryTargets, match, lesson) -> dict[str, Tensor]:
        """Losses by name.

        Args:
            student: ``query_cls`` and ``query_box`` of all layers and queries, and the encoder's
                ``memory``.
            teacher: the teacher's targets.
            match: which classes both know.
            lesson: the training step.
        """
        if self.matching == 'queries':
            cls, box = self.group(teacher.inputs, student['memory'][0], lesson)
        else:
            first = lesson.student.predictions.context.denoising
            cls, box = (student[name][0][:, :, first:] for name in ('query_cls', 'query_box'))
        cls, box = shared_classes(cls, match.student, self.softmax), box.float()
        layers = self._layers(len(cls), len(teacher.cls))
        wanted = [x[layers] for x in (teacher.cls, teacher.box, teacher.score)]
        if self.matching == 'hungarian':
            cls, box, wanted = self._matched(cls, box, wanted)
        cls, box = cls.flatten(0, -2), box.flatten(0, -2)
        their_cls, their_box, weight = (x.reshape(len(cls), -1) for x in wanted)
        count = reduce_mean(weight.sum()).clamp(min=1.0)
        height, width = lesson.inputs.shape[-2:]
        canvas = box.new_tensor([width, height] * 2)
        pairs = dict(
            loss_cls=(cls, their_cls),
            loss_bbox=(box, their_box),
            loss_iou=[bbox_cxcywh_to_xyxy(x) * canvas for x in (box, their_box)],
        )
        return {
            name: loss(*pairs[name], weight=weight, avg_factor=count) * self.loss_weights[name]
            for name, loss in self.parts.items()
        }

    def _layers(self, ours: int, theirs: int) -> list[int]:
        """The teacher's layer that each of the student's listens to."""
        if self.teacher_layers == 'last':
            return [theirs - 1] * ours
        # the nearest to the same share of the depth, the later of two
        return [max(int(layer * theirs / ours + 0.5), 1) - 1 for layer in range(1, ours + 1)]

    def _matched(self, cls: Tensor, box: Tensor, wanted: list[Tensor]):
        """Both models' queries in pairs, ``[L * B, M, ...]``."""
        cls, box = cls.flatten(0, 1), box.flatten(0, 1)
        wanted = [x.flatten(0, 1) for x in wanted]
        sizes = [cls.shape[1], wanted[2].shape[1]] + ([] if self.top is None else [self.top])
        best = wanted[2].topk(min(sizes), dim=1).indices
        wanted = [pick(x, best) for x in wanted]
        found = match_queries(cls, box, wanted[0], wanted[1], self.softmax)
        return pick(cls, found), pick(box, found), wanted
