"""Where a student decides as its teacher does, and whether it follows where that one is wrong."""

import torch
from torch import Tensor

_COLUMNS = ('count', 'same', 'teacher_right', 'student_right', 'followed', 'corrected')


class Agreement:
    """Counts of two models' decisions about the same things, group by group.

    Args:
        groups: names of the groups, by number.
    """

    def __init__(self, groups) -> None:
        self.groups = tuple(str(name) for name in groups)
        self._counts = torch.zeros(len(self.groups), len(_COLUMNS), dtype=torch.long)

    def update(self, group: Tensor, label: Tensor, teacher: Tensor, student: Tensor) -> None:
        """Adds decisions, all ``[N]`` of whole numbers; a class that means nothing is one, too.

        Args:
            group: of each thing.
            label: what it is.
            teacher: what the teacher says.
            student: what the student says.
        """
        same, wrong = teacher == student, teacher != label
        columns = (
            torch.ones_like(same), same, ~wrong, student == label, wrong & same,
            wrong & (student == label),
        )  # fmt: skip
        for index, column in enumerate(columns):
            self._counts[:, index] += torch.bincount(
                group[column], minlength=len(self.groups)
            ).cpu()

    def rows(self) -> dict[str, dict]:
        """By group that is not empty: counts, and the fractions that follow from them.

        ``agreement``, ``teacher_accuracy`` and ``student_accuracy`` are of all; ``follow_rate``
        (the student repeats the very error) and ``correct_rate`` (it is right) of those where the
        teacher is wrong, ``None`` where it never is.
        """
        rows = {}
        for name, counts in zip(self.groups, self._counts.tolist()):
            row = dict(zip(_COLUMNS, counts))
            if not row['count']:
                continue
            wrong = row['count'] - row['teacher_right']
            row.update(
                agreement=row['same'] / row['count'],
                teacher_accuracy=row['teacher_right'] / row['count'],
                student_accuracy=row['student_right'] / row['count'],
                teacher_wrong=wrong,
                follow_rate=row['followed'] / wrong if wrong else None,
                correct_rate=row['corrected'] / wrong if wrong else None,
            )
            rows[name] = row
        return rows


class Remainder:
    """Means over decisions of what a model says beside its first choice, see :func:`remainder`."""

    def __init__(self) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64)

    def update(self, probabilities: Tensor, weight: Tensor | None = None) -> None:
        """Adds decisions ``[N, K]``, each with a weight ``[N]``."""
        mass, entropy = remainder(probabilities)
        weight = torch.ones_like(mass) if weight is None else weight.double()
        parts = (weight, mass * weight, entropy * weight)
        self._sums += torch.stack([part.sum() for part in parts]).cpu()

    def means(self) -> dict:
        """``mass_off_top`` and ``entropy_of_rest``; ``None`` without decisions."""
        weight, mass, entropy = self._sums.tolist()
        if not weight:
            return dict(mass_off_top=None, entropy_of_rest=None)
        return dict(mass_off_top=mass / weight, entropy_of_rest=entropy / weight)


def remainder(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The dark knowledge of decisions: what lies off the first choice, and how evenly.

    Args:
        probabilities: ``[N, K]`` that sum to 1.

    Returns:
        the mass off the highest class ``[N]``, and the entropy of the others' distribution as a
        fraction of the largest possible one, ``log(K - 1)`` ``[N]``; 0 where K < 3.
    """
    p = probabilities.double()
    index = p.argmax(1)
    rest = p.scatter(1, index[:, None], 0.0)
    mass = rest.sum(1)
    share = rest / mass.clamp(min=torch.finfo(mass.dtype).tiny)[:, None]
    entropy = torch.special.entr(share).sum(1)
    others = p.shape[1] - 1
    if others > 1:
        entropy = entropy / torch.tensor(float(others), dtype=p.dtype).log()
    return mass, entropy if others > 1 else torch.zeros_like(mass)
