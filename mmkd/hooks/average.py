"""Hands the average that an ``EMAHook`` keeps to the teacher ``'ema'``."""

from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch import nn

from mmkd.distillers.mean_teacher import MeanTeacher


def check_average(runner: Runner, model: nn.Module) -> None:
    """Sees to it that there is one where it is asked for.

    Raises:
        ValueError: if there is no ``EMAHook``.
    """
    hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    if _mean_teachers(model) and not hooks:
        raise ValueError(
            "teacher 'ema': no EMAHook keeps an average of the student; add custom_hooks="
            "[dict(type='EMAHook')]"
        )


def adopt_average(runner: Runner, model: nn.Module) -> None:
    """Hands it over; to be called once the weights are initialised, loaded or resumed.

    The hook copies the student before its weights are initialised and copies it again after the
    first step; a teacher has to be sensible at that step already.
    """
    for teacher in _mean_teachers(model):
        average = next(hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))
        if average.steps == 0:
            average.module.load_state_dict(model.state_dict())
        teacher.adopt(average.module)


def _mean_teachers(model: nn.Module) -> list[MeanTeacher]:
    """Those that a term or exit listens to."""
    distillation = model.distillation
    asked = {part.teacher for part in distillation.parts if part.uses_teacher and not part.is_off}
    teachers = [distillation.teachers[name] for name in asked]
    return [teacher for teacher in teachers if isinstance(teacher, MeanTeacher)]
