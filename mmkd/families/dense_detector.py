"""mmdet's dense one-stage detectors: RetinaNet, FCOS, ATSS, GFL."""

from contextlib import contextmanager

import torch
from mmdet.models.dense_heads import ATSSHead, FCOSHead, GFLHead, RetinaHead
from mmdet.models.detectors.single_stage import SingleStageDetector
from torch import Tensor, nn

from mmkd.losses.functional import reduce_mean
from mmkd.registry import FAMILIES

from .dense_cells import CellTargets, cell_scores, cell_targets
from .dense_criterion import DenseCriterion, dense_targets, has_centerness
from .dense_cross import cross_outputs, tower_inputs
from .detector import Detector
from .family import Predictions, replaced

_HEADS = (GFLHead, ATSSHead, FCOSHead, RetinaHead)


@FAMILIES.register_module()
class DenseDetector(Detector):
    """One-stage detectors with a dense sigmoid head.

    Final predictions are ``cls`` maps ``[B, A*K, H, W]``, ``box`` maps ``[B, A*4, H, W]`` (GFL:
    ``[B, 4*(n+1), H, W]``) and, for FCOS and ATSS, ``centerness`` maps ``[B, A, H, W]``.
    """

    specificity = 1
    gives = frozenset({'canvas', 'boxes', 'scores'})

    @classmethod
    def knows(cls, model: nn.Module) -> bool:
        return isinstance(model, SingleStageDetector) and _stock_head(model) is not None

    def forward(self, model, inputs, data_samples):
        outputs = model.bbox_head(model.extract_feat(inputs))
        return Predictions(outputs=_by_kind(outputs))

    @contextmanager
    def listen(self, model):
        predictions = Predictions()
        head = model.bbox_head
        stock_loss, stock_targets = head.loss_by_feat, head.get_targets
        count = 3 if has_centerness(head) else 2

        def loss_by_feat(*args, **kwargs):
            predictions.outputs = _by_kind(args[:count])
            predictions.context = (args[count:], kwargs)
            return stock_loss(*args, **kwargs)

        def get_targets(*args, **kwargs):
            predictions.targets = stock_targets(*args, **kwargs)
            return predictions.targets

        with replaced(head, loss_by_feat=loss_by_feat, get_targets=get_targets):
            yield predictions

    def why_no_logits(self, model):
        if not model.bbox_head.use_sigmoid_cls:
            return f'the {type(model.bbox_head).__name__} classifies by softmax, not by sigmoid'
        return None

    def check_pair(self, student, teacher, teacher_family):
        if not isinstance(teacher_family, DenseDetector):
            return f'the teacher {teacher_family.kind} is not a dense detector'
        ours, theirs = student.bbox_head, teacher.bbox_head
        for what, describe in (('priors', _describe_priors), ('box coders', _describe_coder)):
            mine, other = describe(ours), describe(theirs)
            if mine != other:
                return f'{what} differ (student {mine}, teacher {other})'
        return _differing_anchor(ours.prior_generator, theirs.prior_generator)

    def criterion(self, student, teacher, losses):
        return DenseCriterion(student.bbox_head, teacher.bbox_head, losses)

    def targets(self, teacher, outputs, match, lesson):
        return dense_targets(teacher.bbox_head, outputs, match, lesson)

    def cell_scores(self, model, outputs, size, lesson):
        return cell_scores(model.bbox_head, outputs, size, lesson)

    def num_classes(self, model):
        return model.bbox_head.num_classes

    def ground_truth_losses(self, head, outputs, predictions):
        args, kwargs = predictions.context
        targets = _reduced(predictions.targets, outputs['cls'][0])
        with replaced(head, get_targets=lambda *a, **k: targets):
            losses = head.loss_by_feat(*outputs.values(), *args, **kwargs)
        return {name: value for name, value in losses.items() if 'loss' in name}

    def light_head(self, student_cfg: dict, channels: int, stacked_convs: int) -> dict:
        """Config of a head like the student's own with fewer stacked convs."""
        cfg = dict(student_cfg['bbox_head'])
        cfg.update(
            in_channels=channels,
            feat_channels=channels,
            stacked_convs=stacked_convs,
            train_cfg=student_cfg.get('train_cfg'),
            test_cfg=student_cfg.get('test_cfg'),
        )
        return cfg

    def head_outputs(self, head: nn.Module, features: list[Tensor]) -> dict[str, list[Tensor]]:
        """A head's raw outputs by kind on a pyramid of ``[B, C, H, W]``."""
        return _by_kind(head(tuple(features)))

    def strides(self, model: nn.Module) -> list[int]:
        """Pixels a cell, by level of the head."""
        return [int(stride[0]) for stride in model.bbox_head.prior_generator.strides]

    def towers(self, model: nn.Module, start: int) -> tuple[list[str], int]:
        """Where the maps are after ``start`` convs of the class and the box tower; their channels.

        Raises:
            ValueError: if the towers have fewer, or are not the stock head's.
        """
        return tower_inputs(model.bbox_head, start)

    def cross_outputs(self, model: nn.Module, features, levels, start, theirs) -> dict:
        """A frozen head's raw outputs by kind on maps that enter its towers half-way.

        Args:
            model: the teacher.
            features: by level, ``[B, C, H, W]``.
            levels: which of its levels they are.
            start: convolutions of the towers that are skipped.
            theirs: the teacher's own maps at :meth:`towers`, all levels.
        """
        return _by_kind(zip(*cross_outputs(model.bbox_head, features, levels, start, theirs)))

    def cell_targets(self, model: nn.Module, outputs, match, maps, lesson) -> CellTargets:
        """What a teacher says of the cells of maps ``(stride, (H, W))``, whatever its priors."""
        return cell_targets(model.bbox_head, outputs, match, maps, lesson)


def _stock_head(model: nn.Module) -> type | None:
    """The known head class whose losses this model's head uses unchanged."""
    head = getattr(model, 'bbox_head', None)
    for known in _HEADS:
        if isinstance(head, known) and type(head).loss_by_feat is known.loss_by_feat:
            return known
    return None


def _by_kind(outputs) -> dict[str, list[Tensor]]:
    return dict(zip(('cls', 'box', 'centerness'), (list(x) for x in outputs)))


def _describe_priors(head: nn.Module) -> str:
    generator = head.prior_generator
    anchors = getattr(generator, 'base_anchors', None)
    shape = f'strides {[s[0] for s in generator.strides]}'
    if anchors is None:
        return f'points, {shape}, offset {generator.offset}'
    return f'{len(anchors[0])} anchors a cell, {shape}, ' + ' '.join(
        f'{torch.round((x[:, 2:] - x[:, :2]).mean(0)).int().tolist()}' for x in anchors
    )


def _differing_anchor(ours, theirs) -> str | None:
    """The first anchor that is not the same in both, order included."""
    levels = zip(getattr(ours, 'base_anchors', ()), getattr(theirs, 'base_anchors', ()))
    for level, (mine, other) in enumerate(levels):
        for index, (a, b) in enumerate(zip(mine.tolist(), other.tolist())):
            if not torch.allclose(torch.tensor(a), torch.tensor(b), rtol=1e-4, atol=1e-3):
                sides = (', '.join(f'{x:.1f}' for x in box) for box in (a, b))
                return 'priors differ (anchor {} of level {}: student {}, teacher {})'.format(
                    index, level, *sides
                )
    return None


def _describe_coder(head: nn.Module) -> str:
    coder = head.bbox_coder
    parts = [type(coder).__name__]
    parts += [f'{k} {tuple(getattr(coder, k))}' for k in ('means', 'stds') if hasattr(coder, k)]
    parts += [f'reg_max {head.reg_max}'] if hasattr(head, 'reg_max') else []
    return ', '.join(parts)


def _reduced(targets, like: Tensor):
    """The assignment with its divisor averaged over ranks (RetinaNet's own is rank-local)."""
    if not isinstance(targets[-1], (int, float)):
        return targets
    return (*targets[:-1], reduce_mean(like.new_tensor(float(targets[-1]))).item())
