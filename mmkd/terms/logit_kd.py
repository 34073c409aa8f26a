"""Vanilla KD: the family's own final predictions."""

from torch import Tensor, nn

from mmkd.registry import MODELS

from .term import Term, full_precision, shape_of


@MODELS.register_module()
class LogitKD(Term):
    """Vanilla logit distillation (Hinton et al., 2015), as the family of the student has it.

    Segmentors: pixel-wise KL, ``loss_seg``; Mask2Former and MaskFormer the same by the collapse of
    their queries (``layers``, by default the last), or matched queries (``matching='hungarian'``)
    by ``loss_cls``, ``loss_mask`` and ``loss_dice``. Dense detectors: ``loss_cls``, ``loss_bbox``,
    for GFL ``loss_dfl``, for FCOS and ATSS ``loss_centerness``, for PAA ``loss_iou``, for YOLOX
    ``loss_obj``. Two-stage detectors: ``loss_rpn_cls``, ``loss_rpn_bbox`` and, on the student's
    own sampled proposals, ``loss_cls``, ``loss_bbox`` and ``loss_mask``. Query-based detectors:
    ``loss_cls``, ``loss_bbox`` and ``loss_iou`` of each layer (``teacher_layers='depth' |
    'last'``), queries matched (``matching='hungarian'``, the ``top=100`` surest of the teacher) or
    the teacher's put to the student's decoder (``matching='queries'``).

    Args:
        teacher: which teacher, where several are named.
        weight: a number.
        schedule: ``dict(begin=0, warmup=0, end=None, fade=0)`` in iterations.
        **losses: overrides of the family's losses by name, such as
            ``loss_cls=dict(type='BinaryKLDivergence', loss_weight=2.0)``; ``None`` drops one. And
            the options of a family whose predictions are compared in more than one way.

    Raises:
        ValueError: if the two models' predictions cannot be compared.
    """

    has_one_weight = True
    uses_logits = True
    uses_predictions = True

    def __init__(self, teacher=None, weight=1.0, schedule=None, **losses):
        super().__init__(weight, schedule, teacher)
        self._losses = losses
        self.criterion = nn.Module()

    def meet(self, student, teacher) -> None:
        if teacher.is_student:
            raise ValueError(
                f"{self.where}: the student's final predictions would be their own target, which "
                "teaches nothing; use teacher='ema', or an exit"
            )

    def prepare(self, rehearsal) -> None:
        self.criterion = rehearsal.criterion(self, self._losses)
        maps = [x for kind in rehearsal.student.predictions.outputs.values() for x in kind]
        self.shapes = [f'predictions {shape_of(maps[0])}'] if maps else []

    def forward(self, lesson) -> dict[str, Tensor]:
        outputs = lesson.outputs(self.name, lesson.student.predictions)
        with full_precision(lesson.inputs):
            losses = self.criterion(
                outputs, lesson.targets(self.teacher), lesson.match(self.teacher), lesson
            )
        return {name: value * self.weight for name, value in losses.items()}
