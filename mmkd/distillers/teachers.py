"""From what a user writes as ``teacher`` to teachers by name."""

from torch import nn

from .mean_teacher import MeanTeacher
from .self_teacher import SelfTeacher
from .teacher import Teacher

OWN = {'self': SelfTeacher, 'ema': MeanTeacher}  # made of the student, wherever they are named


def build_teachers(cfg: dict | str | None, student: nn.Module) -> dict:
    """The only teacher under ``None``, or several by name.

    Args:
        cfg: one teacher's config, several by name, ``'self'`` or ``'ema'``.
        student: the plain student, whose images they share.

    Raises:
        ValueError: see :meth:`mmkd.distillers.teacher.Teacher.build`.
    """
    if cfg is None:
        return {}
    if isinstance(cfg, str) and cfg in OWN:
        return {None: OWN[cfg](student)}
    if not isinstance(cfg, dict):
        raise ValueError(
            f"teacher={cfg!r} must be dict(config=..., checkpoint=...), 'self' or 'ema'"
        )
    cfg = {k: v for k, v in cfg.items() if k != '_scope_'}
    preprocessor = student.data_preprocessor
    several = cfg and all(isinstance(v, dict) and 'config' in v for v in cfg.values())
    if not several:
        return {None: Teacher.build(None, cfg, preprocessor)}
    if taken := sorted(set(cfg) & set(OWN)):
        raise ValueError(
            f'teacher {taken[0]!r}: the name stands for the student itself; choose another, or '
            f'write teacher={taken[0]!r} in the term or exit'
        )
    return {name: Teacher.build(name, value, preprocessor) for name, value in cfg.items()}
