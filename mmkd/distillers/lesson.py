"""Everything that is known about one training step."""

from dataclasses import dataclass

from torch import Tensor, nn

from mmkd.families.family import Predictions
from mmkd.terms.tap import Capture, Tap

from .shares import GradientShares


@dataclass
class Heard:
    """What one model gave in one step: its taps and its final predictions."""

    capture: Capture
    predictions: Predictions


class Lesson:
    """One batch, and what the student and the teachers made of it.

    Args:
        student_model: the student.
        family: the student's.
        inputs: ``[B, 3, H, W]`` as the student's preprocessor made them.
        data_samples: the batch's labels and meta information.
        student: what the student gave.
        heads: predictions of further heads that the student has, by address.
        teachers: teachers by name.
        said: what each teacher gave that this step asks.
        shares: hands out aliases of the student's tensors.
    """

    def __init__(
        self, student_model: nn.Module, family, inputs: Tensor, data_samples: list,
        student: Heard, heads: dict, teachers: dict, said: dict, shares: GradientShares,
    ) -> None:  # fmt: skip
        self.student_model = student_model
        self.family = family
        self.inputs = inputs
        self.data_samples = data_samples
        self.student = student
        self.heads = heads
        self.shares = shares
        self._teachers = teachers
        self._said = said
        self._targets = {}
        self._valid = {}

    def tap(self, owner: str, taps: list[Tap]) -> list[Tensor]:
        """The owner's own aliases of the student's tensors at these taps."""
        tensors = [x for tap in taps for x in self.student.capture.read(tap)]
        return [self.shares.alias(owner, x) for x in tensors]

    def outputs(self, owner: str, predictions: Predictions) -> dict[str, list[Tensor]]:
        """The owner's own aliases of the student's raw predictions."""
        return {
            kind: [self.shares.alias(owner, x) for x in tensors]
            for kind, tensors in predictions.outputs.items()
        }

    def teacher(self, name: str | None) -> Heard:
        """What a teacher gave on this batch."""
        return self._said[name]

    def targets(self, name: str | None):
        """A teacher's predictions, read once for all that listen to it."""
        if name not in self._targets:
            teacher = self._teachers[name]
            outputs = self.teacher(name).predictions.outputs
            self._targets[name] = teacher.family.targets(
                teacher.model, outputs, teacher.match, self
            )
        return self._targets[name]

    def frozen(self, name: str | None):
        """A teacher's model and its family, for an exit that runs through its layers."""
        teacher = self._teachers[name]
        return teacher.model, teacher.family

    def match(self, name: str | None):
        """Which classes the student and a teacher share."""
        return self._teachers[name].match

    def valid_cells(self, size) -> Tensor | None:
        """Cells of a map of ``size`` that may teach, bool ``[B, 1, H, W]``; ``None``: all."""
        size = tuple(size)
        if size not in self._valid:
            self._valid[size] = self.family.valid_cells(
                self.student_model, size, self.inputs, self.data_samples
            )
        return self._valid[size]
