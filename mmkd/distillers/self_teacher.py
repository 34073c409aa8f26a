"""The student as its own teacher."""

from torch import nn

from mmkd.families import find_family

from .classes import ClassMatch


class SelfTeacher:
    """What the student says itself at the same step, cut from the graph.

    An exit is taught by the student's own final predictions, an early stage by a late one (BYOT,
    Zhang et al., ICCV 2019). It runs nothing: the student's own forward pass is listened to.

    Args:
        student: the plain student.
    """

    is_student = True
    title = 'self'

    def __init__(self, student: nn.Module) -> None:
        self.model = student
        self.family = find_family(student)
        self.match: ClassMatch | None = None

    def start(self, student_classes) -> None:
        """Matches the student's classes with themselves.

        Raises:
            ValueError: if the training set names none.
        """
        self.match = ClassMatch.by_name(student_classes, 'same', self.title)

    def move(self, fn) -> None:
        """Nothing: the student moves itself."""
