"""A multiple of a config's own schedule."""

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict

_WARM_UPS = ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR')
_MOMENTS = ('begin', 'end', 'milestones', 'periods', 'step_size', 'T_max', 'total_steps')


def stretch(cfg: Config, multiple: float) -> None:
    """Make the schedule longer or shorter: the loop, the rates, and what is timed by iterations.

    Warm-ups stay as long as they are, and so does what is counted from the end of the run (the
    phase without mosaic, say). The number of validations stays.

    Args:
        cfg: Changed in place.
        multiple: Of the config's own number of iterations or epochs, above 0.

    Raises:
        ValueError: A number that is not above 0, or a schedule of the rate that has no length.
    """
    if not multiple > 0:
        raise ValueError(f'--schedule must be above 0, got {multiple}')
    if multiple == 1:
        return
    loop = cfg.train_cfg
    key = 'max_epochs' if 'max_epochs' in loop else 'max_iters'
    old = loop[key]
    new = loop[key] = max(1, round(old * multiple))
    for name in ('val_interval', 'val_begin'):
        if name in loop:
            loop[name] = max(1, round(loop[name] * multiple))
    if loop.get('dynamic_intervals'):
        loop.dynamic_intervals = [
            (max(1, new - (old - begin)), interval) for begin, interval in loop.dynamic_intervals
        ]
    schedulers = cfg.get('param_scheduler') or []
    schedulers = schedulers if isinstance(schedulers, list | tuple) else [schedulers]
    _stretch_rates(schedulers, multiple, by_epoch=key == 'max_epochs', total=old)
    for hook in [*cfg.get('default_hooks', {}).values(), *(cfg.get('custom_hooks') or [])]:
        if hook and 'switch_epoch' in hook:
            hook.switch_epoch = max(1, new - (old - hook.switch_epoch))
    for part in _timed(cfg.model):
        for name in ('begin', 'end', 'fade'):
            if part.get(name):
                part[name] = round(part[name] * multiple)


def _stretch_rates(schedulers: list, multiple: float, by_epoch: bool, total: int) -> None:
    warm = [s for s in schedulers if s.type in _WARM_UPS and s.get('begin', 0) == 0]
    # one that lasts as long as the run is a decay
    warm = [s for s in warm if s.get('by_epoch', True) != by_epoch or s.get('end', total) < total]
    for scheduler in schedulers:
        if any(scheduler is each for each in warm):
            continue
        if scheduler.get('by_epoch', True) != by_epoch or not set(_MOMENTS) & set(scheduler):
            raise ValueError(
                f'--schedule: {scheduler.type} of param_scheduler says no end in the unit of the '
                'loop, so it cannot be stretched: give it begin and end'
            )
        begin = scheduler.get('begin', 0)
        spans = scheduler.get('T_max') == scheduler.get('end', 0) - begin
        for name in _MOMENTS:
            value = scheduler.get(name)
            if name == 'begin' and any(value == each.get('end') for each in warm):
                continue  # it starts where the warm-up ends
            if isinstance(value, list | tuple):
                scheduler[name] = [max(1, round(each * multiple)) for each in value]
            elif value and value != float('inf'):
                scheduler[name] = max(1, round(value * multiple))
        if spans:
            scheduler.T_max = scheduler.end - scheduler.get('begin', 0)


def _timed(model: ConfigDict) -> Iterator[ConfigDict]:
    """Give the ``schedule`` of each term and exit."""
    for group in ('terms', 'exits'):
        for part in (model.get(group) or {}).values():
            if isinstance(part, dict) and part.get('schedule'):
                yield part.schedule
