"""A weight's course over training, in iterations."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Schedule:
    """Factor of a term's or exit's weight at each iteration, under epoch and iteration loops alike.

    It is 0 before ``begin``, rises as ``min(1, (i - begin + 1) / warmup)``, and falls linearly to 0
    over ``fade`` iterations from ``end`` on.

    Raises:
        ValueError: on a negative number, or an ``end`` that is not after ``begin``.
    """

    begin: int = 0
    warmup: int = 0
    end: int | None = None
    fade: int = 0

    @classmethod
    def read(cls, cfg: dict | None) -> 'Schedule':
        """The schedule that a config describes.

        Raises:
            ValueError: on an unknown key.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(cfg or ()) - set(known)) if isinstance(cfg, dict | None) else [cfg]
        if unknown:
            raise ValueError(
                f'schedule: unknown {unknown[0]!r}; write dict({"=, ".join(known)}=) in iterations'
            )
        return cls(**(cfg or {}))

    def __post_init__(self) -> None:
        for name in ('begin', 'warmup', 'fade'):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f'schedule: {name}={value!r} must be a number of iterations >= 0')
        if self.end is not None and (not isinstance(self.end, int) or self.end <= self.begin):
            raise ValueError(f'schedule: end={self.end!r} must come after begin={self.begin}')

    def __call__(self, iteration: int) -> float:
        """The factor, from 0 to 1, at a 0-based iteration."""
        if iteration < self.begin:
            return 0.0
        factor = min(1.0, (iteration - self.begin + 1) / self.warmup) if self.warmup else 1.0
        if self.end is not None and iteration >= self.end:
            factor *= max(0.0, 1.0 - (iteration - self.end) / self.fade) if self.fade else 0.0
        return factor

    def __str__(self) -> str:
        parts = [f'from {self.begin}'] if self.begin else []
        parts += [f'warm-up {self.warmup}'] if self.warmup else []
        parts += [f'until {self.end}'] if self.end is not None else []
        parts += [f'fading {self.fade}'] if self.fade else []
        return ', '.join(parts) or 'constant'
