"""The running average of the student as its teacher."""

import copy

from torch import nn

from .lesson import Heard
from .runtime import Runtime
from .teacher import Teacher


class MeanTeacher(Teacher):
    """The average of the student's weights that mmengine's ``EMAHook`` keeps.

    Mean Teacher (Tarvainen and Valpola, NeurIPS 2017). The average stays the hook's: it is saved,
    resumed, moved and evaluated there, and here only read, in eval mode. Until ``DistillHook``
    hands it over a copy of the student stands in, for its structure.

    Args:
        student: the plain student.
    """

    def __init__(self, student: nn.Module) -> None:
        stand_in = copy.deepcopy(student)
        super().__init__('ema', stand_in, 'same', None, 'ema', Runtime())
        self._adopted = False

    def adopt(self, average: nn.Module) -> None:
        """Takes the average from here on.

        Args:
            average: the student that an ``EMAHook`` averages.
        """
        self.model = average.eval()
        self._adopted = True

    def run(self, inputs, data_samples, taps, predictions) -> Heard:
        if not self._adopted:
            raise ValueError(
                "teacher 'ema': it has no average yet; train with the DistillHook and an EMAHook, "
                "custom_hooks=[dict(type='EMAHook')], or hand one over by adopt()"
            )
        return super().run(inputs, data_samples, taps, predictions)

    def move(self, fn) -> None:
        """Nothing: the average is the hook's."""
