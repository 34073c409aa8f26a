"""The student's head goes on through the teacher's."""

from torch import Tensor, nn

from mmkd.registry import MODELS

from .cross import cross_losses, enter_tower, join_channels, tower_taps
from .term import Term, shape_of


@MODELS.register_module()
class CrossKD(Term):
    """Maps of the student's head towers go on through the teacher's (Wang et al., CVPR 2024).

    After some convolutions the student's class and box maps, given in each channel the mean and
    standard deviation that the teacher's own map has there, enter the frozen teacher's towers. What
    comes out is taught the teacher's final predictions; the student's own head learns from the
    labels alone. RetinaNet, ATSS, FCOS and GFL; losses, weights and divisors are the published
    ones, see :class:`mmkd.families.cross_criterion.CrossCriterion`. With a ``FeatureKD`` of PKD on
    ``neck`` beside it (weight 6 for GFL, 2 for RetinaNet and FCOS, 1 for ATSS) it is CrossKD+PKD.

    The alignment is over batch and cells, and so local to a rank.

    Args:
        start: convolutions of the teacher's towers that are skipped; published: 3 of 4, FCOS 2.
        student_start: convolutions of the student's towers before that; ``None``: as many.
        adapter: ``'auto'`` (a 1x1 convolution for each tower where channels differ, shared by
            levels as towers are), ``None``, or the config of one built with ``in_channels`` and
            ``out_channels``.
        weight: a number.
        schedule: ``dict(begin=0, warmup=0, end=None, fade=0)`` in iterations.
        teacher: which teacher, where several are named.
        **losses: overrides by name, such as ``loss_cls=dict(type='KDQualityFocalLoss',
            loss_weight=2.0)``, and ``avg_factor='published' | 'teacher_score' | 'num_pos'``.

    Raises:
        ValueError: on a number that makes no sense; for heads other than these, priors or coders
            that differ, or towers with fewer convolutions.
    """

    has_one_weight = True
    uses_logits = True
    uses_predictions = True

    def __init__(
        self, start: int = 3, student_start: int | None = None, adapter='auto', weight=1.0,
        schedule=None, teacher=None, **losses,
    ):  # fmt: skip
        super().__init__(weight, schedule, teacher)
        self.start = start
        self.student_start = start if student_start is None else student_start
        for name in ('start', 'student_start'):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f'{name}={value!r} must be a number of tower convolutions >= 0')
        self.adapter = adapter
        self._losses = losses
        self._width = 0
        self.adapters = nn.ModuleList()
        self.criterion = nn.Module()

    def meet(self, student, teacher) -> None:
        family = teacher.family
        if not hasattr(family, 'towers') or not family.knows(student):
            raise ValueError(
                f'{self.where}: CrossKD needs RetinaNet, ATSS, FCOS or GFL as student and as '
                f'teacher, not {type(student).__name__} and {type(teacher.model).__name__}; use '
                'CrossExit, or distil features (FeatureKD)'
            )
        if teacher.is_student:
            raise ValueError(
                f"{self.where}: CrossKD runs through a frozen head, and the student's own is "
                "trained; use teacher='ema'"
            )
        self.student_taps, _ = tower_taps(self, family, student, self.student_start, 'student')
        self.teacher_taps, self._width = tower_taps(self, family, teacher.model, self.start)

    def prepare(self, rehearsal) -> None:
        self.criterion = rehearsal.criterion(self, self._losses, rehearsal.family.cross_criterion)
        maps = rehearsal.student_tensors(self)
        for x in maps[:: len(maps) // 2]:
            self.adapters.append(
                join_channels(self, self.adapter, x.shape[1], self._width, enter_tower)
            )
            self.shapes.append(f'{shape_of(x)} -> {self._width} channels')

    def forward(self, lesson) -> dict[str, Tensor]:
        features = [
            [adapter(x) for x in lesson.tap(self.name, [tap])]
            for tap, adapter in zip(self.student_taps, self.adapters, strict=True)
        ]
        losses = cross_losses(self, features, tuple(range(len(features[0]))), lesson)
        return {name: value * self.weight for name, value in losses.items()}
