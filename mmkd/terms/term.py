"""A term: one sentence of teaching, tap -> adapter -> region -> loss -> weight(t)."""

import math

import torch
from mmengine.dist import is_distributed
from torch import Tensor, nn

from mmkd.registry import build

from .schedule import Schedule
from .tap import Tap


class Term(nn.Module):
    """What terms and exits share: a weight, its schedule, a teacher, and taps.

    Args:
        weight: a number, one per tensor of the tap, or ``dict(type='GradientShare', share=0.1)``.
        schedule: see :class:`mmkd.terms.schedule.Schedule`.
        teacher: the name of the teacher it listens to, where several are given.

    Raises:
        ValueError: on a weight that is negative or not finite, or a list where one is wanted.
    """

    kind = 'term'
    uses_teacher = True  # listens to a teacher at all
    uses_logits = False  # compares final predictions, so classes must match
    uses_predictions = False  # needs the teacher's final predictions
    has_one_weight = False  # a list of weights would mean nothing
    without_teacher = ''  # how to write it where there is none

    def __init__(self, weight=1.0, schedule: dict | None = None, teacher: str | None = None):
        super().__init__()
        self.name = ''
        self.controller = None
        if isinstance(weight, dict):
            self.controller = build(weight, 'weight', 'weight')
            weight = 1.0
        self.weight = check_weight('weight', weight)
        if self.has_one_weight and isinstance(self.weight, list):
            raise ValueError(f'weight={weight!r} must be one number for {type(self).__name__}')
        self.schedule = Schedule.read(schedule)
        self.teacher = teacher
        self.student_taps: list[Tap] = []
        self.teacher_taps: list[Tap] = []
        self.shapes: list[str] = []
        self._logged = ('loss',)

    @property
    def where(self) -> str:
        """How errors call it."""
        return f'{self.kind} {self.name!r}'

    @property
    def is_off(self) -> bool:
        """Whether its weight is a constant 0: it then computes nothing and trains nothing."""
        weights = self.weight if isinstance(self.weight, list) else [self.weight]
        return not any(weights)

    def weights(self, count: int) -> list[float]:
        """One weight for each of ``count`` tensors.

        Raises:
            ValueError: if the user gave another number of weights.
        """
        if not isinstance(self.weight, list):
            return [self.weight] * count
        if len(self.weight) != count:
            raise ValueError(
                f'{self.where}: {len(self.weight)} weights for {count} tensors at '
                f'{", ".join(t.address for t in self.student_taps)}; give one number or {count}'
            )
        return self.weight

    def meet(self, student: nn.Module, teacher) -> None:
        """Chooses teacher taps that depend on the models; called before the dry run.

        Args:
            student: the plain student.
            teacher: the teacher that it listens to.

        Raises:
            ValueError: if it can do nothing with these two.
        """

    def prepare(self, rehearsal) -> None:
        """Builds what depends on shapes; called once, after the dry run.

        Raises:
            ValueError: if what it needs is not there or does not fit.
        """
        raise NotImplementedError

    def forward(self, lesson) -> dict[str, Tensor]:
        """Weighted losses by name, each of which contains ``loss``."""
        raise NotImplementedError

    def teach(self, lesson, iteration: int) -> dict[str, Tensor]:
        """Losses at an iteration; zeros that touch its parameters outside its schedule."""
        factor = self.schedule(iteration)
        if factor == 0.0:
            zero = self._zero(lesson)
            return {name: zero if i == 0 else zero.detach() for i, name in enumerate(self._logged)}
        losses = self(lesson)
        self._logged = tuple(losses)
        if self.controller is not None:
            factor = factor * self.controller()
        losses = {name: value * factor for name, value in losses.items()}
        if is_distributed() and losses:
            # a head whose losses are partly switched off has parameters that DDP would wait for
            losses[self._logged[0]] = losses[self._logged[0]] + self._zero(lesson)
        return losses

    def _zero(self, lesson) -> Tensor:
        parameters = [p for p in self.parameters() if p.requires_grad]
        return sum((p.sum() * 0 for p in parameters), lesson.inputs.new_zeros(()))


def check_weight(name: str, weight):
    """A finite number >= 0, or a list of them.

    Raises:
        ValueError: otherwise.
    """
    values = list(weight) if isinstance(weight, (list, tuple)) else [weight]
    for value in values:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise ValueError(f'{name}={weight!r} must be a finite number >= 0, or a list of them')
    return values if isinstance(weight, (list, tuple)) else weight


def parse_taps(tap) -> list[Tap]:
    """One address, or a list of them.

    Raises:
        ValueError: on anything else.
    """
    addresses = [tap] if isinstance(tap, str) else tap
    if not isinstance(addresses, (list, tuple)) or not addresses:
        raise ValueError(f'tap={tap!r} must be an address or a list of addresses')
    return [Tap.parse(address) for address in addresses]


def full_precision(x: Tensor):
    """A context that switches autocast off, for losses."""
    return torch.autocast(x.device.type, enabled=False)


def shape_of(x: Tensor) -> str:
    """``C x H x W`` of a map."""
    return 'x'.join(str(n) for n in x.shape[1:])
