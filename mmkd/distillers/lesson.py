"""Everything that is known about one training step."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from mmkd.families.family import Predictions
from mmkd.terms.tap import Capture, Tap

from .shares import GradientShares


@dataclass
class Heard:
    """What one model gave in one step: its taps and its final predictions."""

    capture: Capture
    predictions: Predictions

    def detached(self) -> 'Heard':
        """The same, cut from the graph."""
        outputs = {
            kind: [x.detach() for x in maps] for kind, maps in self.predictions.outputs.items()
        }
        return Heard(self.capture.detached(), replace(self.predictions, outputs=outputs))


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
        self._asked = {}

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

    def context(self, names, size, teacher: str | None) -> dict:
        """What a loss asks for beside the two maps, by name.

        Args:
            names: of ``boxes`` (by image ``[n, 4]`` in pixels), ``canvas`` (height and width of the
                batch in pixels), ``label`` (``[B, H, W]``, -1 where ignored), ``num_classes`` (the
                student's) and ``scores`` (the teacher's highest class score ``[B, 1, H, W]``).
            size: the maps' ``(H, W)``.
            teacher: whose scores.
        """
        return {name: self._ask(name, tuple(size), teacher) for name in names}

    def _ask(self, name: str, size, teacher: str | None):
        if name == 'canvas':
            return tuple(self.inputs.shape[-2:])
        if name == 'num_classes':
            return self.family.num_classes(self.student_model)
        if name == 'boxes':
            return self.family.boxes(self.data_samples)
        if (name, size, teacher) not in self._asked:
            if name == 'label':
                value = self.family.cell_labels(self.student_model, size, self.data_samples)
            else:
                model, family = self.frozen(teacher)
                outputs = self.teacher(teacher).predictions.outputs
                value = family.cell_scores(model, outputs, size)
            self._asked[name, size, teacher] = value
        return self._asked[name, size, teacher]

    def valid_cells(self, size) -> Tensor | None:
        """Cells of a map of ``size`` that may teach, bool ``[B, 1, H, W]``; ``None``: all."""
        size = tuple(size)
        if size not in self._valid:
            self._valid[size] = self.family.valid_cells(
                self.student_model, size, self.inputs, self.data_samples
            )
        return self._valid[size]
