"""Which classes a student and a teacher share."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassMatch:
    """Indices of the shared classes in either model; ``None``: all of them, in order.

    Attributes:
        ours: the student's indices.
        theirs: the teacher's, aligned with ``ours``.
        names: the shared names.
    """

    ours: tuple[int, ...] | None = None
    theirs: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def by_name(cls, student, teacher, name: str) -> 'ClassMatch':
        """Matches two lists of class names; ``teacher='same'`` takes the student's.

        Raises:
            ValueError: if either is unknown or they share nothing.
        """
        if not student:
            raise ValueError(
                "classes: the training set's metainfo names no classes; give its dataset "
                'metainfo=dict(classes=(...))'
            )
        student = tuple(student)
        if teacher == 'same':
            return cls(names=student)
        if not teacher:
            raise ValueError(
                f'teacher {name!r}: its class names are nowhere (neither in its checkpoint nor in '
                "its config); give teacher.classes=(...), or 'same' if they are the student's"
            )
        teacher = tuple(teacher)
        if teacher == student:
            return cls(names=student)
        shared = tuple(c for c in student if c in teacher)
        if not shared:
            raise ValueError(
                f'teacher {name!r}: no class in common; student has {_some(student)}, teacher has '
                f'{_some(teacher)}; give teacher.classes=(...) in the names of the training set'
            )
        ours = tuple(student.index(c) for c in shared)
        theirs = tuple(teacher.index(c) for c in shared)
        everything = tuple(range(len(student)))
        return cls(None if ours == everything else ours, theirs, shared)

    def student(self, x: Tensor, dim: int) -> Tensor:
        """The student's shared classes along ``dim``."""
        return _select(x, self.ours, dim)

    def teacher(self, x: Tensor, dim: int) -> Tensor:
        """The teacher's shared classes along ``dim``, in the student's order."""
        return _select(x, self.theirs, dim)

    def label(self, x: Tensor) -> Tensor:
        """The student's class indices counted among the shared ones; -1 for all others."""
        if self.ours is None:
            return x
        end = max(self.ours) + 1
        number = x.new_full((end + 1,), -1)
        number[torch.tensor(self.ours, device=x.device)] = torch.arange(
            len(self.ours), device=x.device, dtype=x.dtype
        )
        return number[x.clamp(max=end)]  # -1 takes the last entry, too


def _select(x: Tensor, indices: tuple[int, ...] | None, dim: int) -> Tensor:
    if indices is None:
        return x
    return x.index_select(dim, torch.tensor(indices, device=x.device))


def _some(names: tuple[str, ...]) -> str:
    return f'{", ".join(names[:4])}{", ..." if len(names) > 4 else ""} ({len(names)})'
