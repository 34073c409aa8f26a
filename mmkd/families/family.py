"""What every family answers."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .cells import CellTargets, cell_scores, cell_targets


@dataclass
class Predictions:
    """A model's final predictions, and what its head was told about them.

    Attributes:
        outputs: raw outputs of the head by kind, e.g. ``dict(cls=[...], box=[...])``; each value is
            a list of maps ``[B, C, H, W]``.
        context: whatever the head's loss needs besides its outputs (labels, image metas, ...).
        targets: the label assignment that the student's head made, where it makes one.
    """

    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    context: tuple = ()
    targets: Any = None


class Family:
    """What a kind of model predicts, how deep to run it, and its vanilla KD.

    A subclass is registered in ``mmkd.registry.FAMILIES`` and names the models it ``knows``. What
    single exits need is not among its methods here, and asked for by its presence: ``light_head``,
    ``head_outputs`` and ``strides`` (``DenseExit``), ``towers``, ``cross_outputs`` and
    ``cross_criterion`` (``CrossExit``, ``CrossKD``), ``first_box_head`` (``RoIExit``), ``head``,
    ``is_head``, ``listen_to_head`` and ``branch_style`` (``SegExit``).

    Args:
        model: a student or a teacher; only its structure is read here.
    """

    specificity = 0
    dry_run_side = 256  # pixels; at least twice the largest stride
    gives = frozenset({'canvas'})  # what a loss may ask for, see `Lesson.context`
    predicts_pixels = False  # whether a teacher's outputs have class logits of each pixel, `seg`

    def __init__(self, model: nn.Module) -> None:
        self.kind = type(model).__name__

    @classmethod
    def knows(cls, model: nn.Module) -> bool:
        """Whether this family understands the model."""
        raise NotImplementedError

    def dummy_batch(self, model: nn.Module, device) -> tuple[Tensor, list]:
        """A synthetic batch of 2 with one object or label each: ``[2, 3, S, S]`` and samples."""
        raise NotImplementedError

    def forward(self, model: nn.Module, inputs: Tensor, data_samples: list) -> Predictions:
        """Runs a teacher as deep as its final predictions, calling its modules on the way."""
        model.extract_feat(inputs)
        return Predictions()

    @contextmanager
    def listen(self, model: nn.Module):
        """Yields :class:`Predictions`, filled while the model's own ``loss()`` runs inside."""
        yield Predictions()

    def why_no_logits(self, model: nn.Module) -> str | None:
        """Why the final predictions of this model cannot be taught, or ``None`` if they can."""
        return f'{self.kind} has no final predictions that mmkd knows'

    def check_pair(self, student: nn.Module, teacher: nn.Module, teacher_family) -> str | None:
        """Why these two models' final predictions cannot be compared, or ``None``."""
        raise NotImplementedError

    def criterion(self, student: nn.Module, teacher: nn.Module, losses: dict) -> nn.Module:
        """The vanilla KD of this family, see ``LogitKD``."""
        raise NotImplementedError

    def exit_criterion(self, student: nn.Module, teacher: nn.Module, losses: dict) -> nn.Module:
        """That of an exit's predictions; another one where exits predict in another way."""
        return self.criterion(student, teacher, losses)

    def targets(self, teacher: nn.Module, outputs: dict, match, lesson):
        """A teacher's raw outputs in the form that the criterion takes."""
        return outputs

    def num_classes(self, model: nn.Module) -> int | None:
        """How many classes a model predicts, where the family knows."""
        return None

    def rename_classes(self, samples: list, match) -> list:
        """Predicted samples with the teacher's classes numbered as the student's."""
        raise NotImplementedError

    def ground_truth_losses(self, head: nn.Module, outputs: dict, predictions: Predictions) -> dict:
        """Losses of early predictions against the labels, by the main head's own rules."""
        raise NotImplementedError

    def boxes(self, data_samples: list) -> list[Tensor]:
        """The labelled boxes of each image, ``[n, 4]`` corners in pixels."""
        raise NotImplementedError

    def cell_labels(self, model: nn.Module, size, data_samples: list) -> Tensor:
        """The class of each cell of a ``(H, W)`` map, ``[B, H, W]``; -1: none."""
        raise NotImplementedError

    def why_no_cells(self, model: nn.Module) -> str | None:
        """Why a detector says nothing of the classes in each cell, or ``None``."""
        return self.why_no_logits(model) or f'{self.kind} has none'

    def score_logits(self, model: nn.Module, outputs: dict) -> list[Tensor]:
        """Logits of a detector's final class scores in each cell, by map ``[B, K, H, W]``."""
        return outputs['cls']

    def score_maps(self, model: nn.Module, outputs: dict) -> list[Tensor]:
        """A teacher's highest class score in each cell, by map ``[B, 1, H, W]``."""
        logits = self.score_logits(model, outputs)
        return [x.float().amax(1, keepdim=True).sigmoid() for x in logits]

    def cell_scores(self, model: nn.Module, outputs: dict, size) -> Tensor:
        """The same in the cells of a ``(H, W)`` map of a student, ``[B, 1, H, W]``."""
        return cell_scores(self.score_maps(model, outputs), size)

    def cell_targets(self, model: nn.Module, outputs: dict, match, sizes, lesson) -> CellTargets:
        """What a detector says of the classes in the cells of a student's maps ``(H, W)``."""
        return cell_targets(self.score_logits(model, outputs), match, sizes, lesson)

    def as_maps(self, tensors: list[Tensor], predictions: Predictions) -> list[Tensor]:
        """Tapped tensors as maps ``[B, C, H, W]``, where the family knows how they lie."""
        return tensors

    def valid_cells(self, model: nn.Module, size, inputs: Tensor, data_samples: list):
        """Which cells of a ``(H, W)`` map may teach: bool ``[B, 1, H, W]``; ``None``: all."""
        raise NotImplementedError


@contextmanager
def replaced(module: nn.Module, **methods):
    """Shadows methods of one instance while the block runs."""
    for name, method in methods.items():
        assert name not in module.__dict__, f'{name} is already shadowed'
        module.__dict__[name] = method
    try:
        yield
    finally:
        for name in methods:
            del module.__dict__[name]
