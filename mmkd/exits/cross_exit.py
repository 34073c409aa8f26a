"""Early predictions by the teacher's own layers."""

from torch import Tensor, nn

from mmkd.registry import MODELS
from mmkd.terms.cross import cross_losses, enter_tower, tower_taps
from mmkd.terms.term import shape_of

from .dense_teacher import check_dense_teacher
from .exit import Exit


@MODELS.register_module()
class CrossExit(Exit):
    """Stages of the student go on through the frozen teacher's dense head, from a tower conv on.

    An adapter brings each stage to the towers' width; there each of its channels gets the mean and
    the standard deviation that the teacher's own map has at that point, once for the class and once
    for the box tower. What comes out is taught the teacher's final predictions, as ``LogitKD``
    teaches the student's; the only parameters are the adapters'. CrossKD (Wang et al., CVPR 2024),
    which feeds the student's tower, here with early stages.

    The student's head plays no part, so it may be of another type, with other priors. Levels of the
    teacher's head at whose stride nothing is tapped are left out.

    Args:
        tap: address in the student, or a list of them: maps at strides of the teacher's head.
        start: convolutions of the towers that are skipped; with 0 a stage stands for the neck's
            output, with all of them it enters the predictors.
        adapter: ``'auto'`` (a 1x1 convolution where channels differ), ``None``, or the config of
            one built with ``in_channels`` and ``out_channels``.
        weight: one number, as there is one head.
        kd_losses: overrides of the family's KD losses by name, as ``LogitKD`` takes them.
        teacher: which teacher, where several are named.
        schedule: ``dict(begin=0, warmup=100, end=None, fade=0)`` in iterations.

    Raises:
        ValueError: on a ``start`` or a weight that makes no sense; for a student that is no
            detector, a teacher without such a head, or stages that are not at its strides.
    """

    has_one_weight = True
    without_teacher = ''

    def __init__(
        self, tap, start: int = 3, adapter='auto', weight=0.25, kd_losses=None, teacher=None,
        schedule=None,
    ):  # fmt: skip
        super().__init__(
            tap, adapter, weight, gt=0.0, kd=1.0, kd_losses=kd_losses, teacher=teacher,
            schedule=schedule,
        )  # fmt: skip
        if not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise ValueError(f'start={start!r} must be a number of tower convolutions >= 0')
        self.start = start
        self.levels = nn.ModuleList()
        self.head_levels: tuple[int, ...] = ()
        self._width = 0

    def meet(self, student, teacher) -> None:
        check_dense_teacher(self, student, teacher)
        if teacher.is_student:
            raise ValueError(
                f"{self.where}: CrossExit runs through a frozen head, and the student's own is "
                "trained; use teacher='ema', or DenseExit"
            )
        self.teacher_taps, self._width = tower_taps(self, teacher.family, teacher.model, self.start)

    def prepare(self, rehearsal) -> None:
        teacher = rehearsal.teachers[self.teacher]
        try:
            self.criterion = teacher.family.criterion(teacher.model, teacher.model, self._kd_losses)
        except ValueError as error:
            raise ValueError(f'{self.where}: {error}') from error
        if self.criterion.needs_labels and rehearsal.student.predictions.targets is None:
            raise ValueError(
                f"{self.where}: avg_factor='num_pos' needs the assignment of a dense student head, "
                f'which {rehearsal.family.kind} has not; drop it'
            )
        stages = rehearsal.student_tensors(self)
        self.head_levels = self._find_levels(
            self.strides(stages, rehearsal.side), teacher.family.strides(teacher.model)
        )
        for stage in stages:
            self.levels.append(self.adapt(stage.shape[1], self._width, enter_tower))
            self.shapes.append(f'{shape_of(stage)} -> {self._width} channels')

    def _find_levels(self, strides: list[int], wanted: list[int]) -> tuple[int, ...]:
        if not set(strides) <= set(wanted) or len(set(strides)) < len(strides):
            raise ValueError(
                f"{self.where}: the tapped stages have strides {strides}, the teacher's head works "
                f'at {wanted}; tap one stage for each of those strides, or for some of them'
            )
        return tuple(wanted.index(stride) for stride in strides)

    def forward(self, lesson) -> dict[str, Tensor]:
        stages = lesson.tap(self.name, self.student_taps)
        features = [level(x) for level, x in zip(self.levels, stages, strict=True)]
        losses = cross_losses(self, (features, features), self.head_levels, lesson)
        return {f'kd_{name}': value * self.weight for name, value in losses.items()}
