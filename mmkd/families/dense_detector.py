"""mmdet's dense one-stage detectors."""

from contextlib import contextmanager

from mmdet.models.dense_heads import RepPointsHead
from mmdet.models.detectors.single_stage import SingleStageDetector
from torch import Tensor, nn

from mmkd.registry import FAMILIES

from .cross_criterion import CrossCriterion
from .dense_assignment import hear_assignment, told
from .dense_criterion import DenseCriterion, dense_targets
from .dense_cross import cross_outputs, tower_inputs
from .dense_heads import KINDS, by_kind, score_logits, stock_type
from .detector import Detector
from .family import Predictions, replaced
from .priors import why_priors_differ


@FAMILIES.register_module()
class DenseDetector(Detector):
    """One-stage detectors with a dense sigmoid head.

    RetinaNet, FCOS, ATSS, GFL, PAA, VFNet, TOOD, RepPoints, RTMDet and YOLOX. Final predictions are
    ``cls`` maps ``[B, A*K, H, W]`` (TOOD's are probabilities, else logits), ``box`` maps
    ``[B, A*4, H, W]`` (GFL: ``[B, 4*(n+1), H, W]``) as the head makes them, and what it says
    besides: ``centerness``, ``iou`` or ``objectness`` ``[B, A, H, W]``, and the ``initial`` boxes
    that VFNet and RepPoints refine.
    """

    specificity = 1

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if self.why_no_cells(model) is None:
            self.gives = self.gives | {'scores'}

    @classmethod
    def knows(cls, model: nn.Module) -> bool:
        head = getattr(model, 'bbox_head', None)
        return isinstance(model, SingleStageDetector) and stock_type(head) is not None

    def forward(self, model, inputs, data_samples):
        outputs = model.bbox_head(model.extract_feat(inputs))
        return Predictions(outputs=by_kind(model.bbox_head, outputs))

    @contextmanager
    def listen(self, model):
        predictions = Predictions()
        head = model.bbox_head
        stock_loss, count = head.loss_by_feat, len(KINDS[stock_type(head)])

        with hear_assignment(head) as assignment:

            def loss_by_feat(*args, **kwargs):
                predictions.outputs = by_kind(head, args[:count])
                predictions.context = (args[count:], kwargs)
                predictions.targets = assignment
                return stock_loss(*args, **kwargs)

            with replaced(head, loss_by_feat=loss_by_feat):
                yield predictions

    def why_no_logits(self, model):
        if not model.bbox_head.use_sigmoid_cls:
            return f'the {type(model.bbox_head).__name__} classifies by softmax, not by sigmoid'
        return None

    def check_pair(self, student, teacher, teacher_family):
        if not isinstance(teacher_family, DenseDetector):
            return f'the student is a dense detector, the teacher {teacher_family.kind} is not'
        return why_priors_differ(student.bbox_head, teacher.bbox_head)

    def criterion(self, student, teacher, losses):
        return DenseCriterion(student.bbox_head, teacher.bbox_head, losses)

    def cross_criterion(self, student: nn.Module, teacher: nn.Module, losses: dict) -> nn.Module:
        """CrossKD's losses with its published weights and divisors."""
        return CrossCriterion(student.bbox_head, teacher.bbox_head, losses)

    def targets(self, teacher, outputs, match, lesson):
        return dense_targets(teacher.bbox_head, outputs, match, lesson)

    def why_no_cells(self, model):
        return self.why_no_logits(model)

    def score_logits(self, model, outputs):
        classes = model.bbox_head.cls_out_channels
        # anchors come before classes
        maps = score_logits(model.bbox_head, outputs)
        return [x.unflatten(1, (-1, classes)).amax(1) for x in maps]

    def num_classes(self, model):
        return model.bbox_head.num_classes

    def ground_truth_losses(self, head, outputs, predictions):
        args, kwargs = predictions.context
        with told(head, predictions.targets, outputs['cls'][0].device):
            losses = head.loss_by_feat(*outputs.values(), *args, **kwargs)
        return {name: value for name, value in losses.items() if 'loss' in name}

    def light_head(self, model: nn.Module, student_cfg: dict, channels: int, convs: int) -> dict:
        """Config of a head like the student's own, of other width and with fewer stacked convs."""
        cfg = dict(student_cfg['bbox_head'])
        cfg.update(
            in_channels=channels,
            feat_channels=channels,
            stacked_convs=convs,
            train_cfg=student_cfg.get('train_cfg'),
            test_cfg=student_cfg.get('test_cfg'),
        )
        if stock_type(model.bbox_head) is RepPointsHead:
            # its loss reads one parameter besides the maps; that stays as it starts
            cfg.update(point_feat_channels=channels, moment_mul=0.0)
        return cfg

    def head_outputs(self, head: nn.Module, features: list[Tensor]) -> dict[str, list[Tensor]]:
        """A head's raw outputs by kind on a pyramid of ``[B, C, H, W]``."""
        return by_kind(head, head(tuple(features)))

    def strides(self, model: nn.Module) -> list[int]:
        """Pixels a cell, by level of the head."""
        return [int(stride[0]) for stride in model.bbox_head.prior_generator.strides]

    def towers(self, model: nn.Module, start: int, who: str = 'teacher') -> tuple[list[str], int]:
        """Where the maps are after ``start`` convs of the class and the box tower; their channels.

        Args:
            model: a dense detector.
            start: a number of convolutions.
            who: what to call it in an error.

        Raises:
            ValueError: if the towers have fewer, or are not the stock head's.
        """
        return tower_inputs(model.bbox_head, start, who)

    def cross_outputs(self, model: nn.Module, features, levels, start, theirs) -> dict:
        """A frozen head's raw outputs by kind on maps that enter its towers half-way.

        Args:
            model: the teacher.
            features: for the class and for the box tower, by level ``[B, C, H, W]``.
            levels: which of its levels they are.
            start: convolutions of the towers that are skipped.
            theirs: the teacher's own maps at :meth:`towers`, all levels.
        """
        head = model.bbox_head
        return by_kind(head, zip(*cross_outputs(head, features, levels, start, theirs)))
