"""Builds a criterion's losses from their configs."""

import inspect

from torch import nn

from mmkd.registry import build


def build_losses(
    overrides: dict, defaults: dict, gives: tuple[str, ...] = (), by_rows: bool = True
) -> tuple[nn.ModuleDict, dict[str, float]]:
    """Builds a criterion's losses by name, each with its ratio to the others.

    Args:
        overrides: loss configs by name; ``loss_weight`` inside is its ratio (1 by default) and
            ``None`` switches the loss off.
        defaults: the loss configs that the criterion has where nothing is overridden.
        gives: what of a loss's context the criterion passes on.
        by_rows: whether it gives rows with a ``weight``, which losses of maps would drop.

    Returns:
        the losses that are on, and their ratios.

    Raises:
        ValueError: on a name the criterion does not have, or a loss that asks for more than it
            gives or is made for feature maps.
    """
    unknown = set(overrides) - set(defaults)
    if unknown:
        raise ValueError(
            f'LogitKD: unknown argument {sorted(unknown)[0]!r}; this family has '
            f'{", ".join(sorted(defaults))}'
        )
    modules, weights = nn.ModuleDict(), {}
    for name, default in defaults.items():
        cfg = overrides.get(name, default)
        if cfg is None:
            continue
        cfg = dict(cfg)
        weights[name] = cfg.pop('loss_weight', 1.0)
        modules[name] = build(cfg, f'LogitKD: {name}')
        takes = inspect.signature(modules[name].forward).parameters
        if (
            hasattr(modules[name], 'prepare')
            or getattr(modules[name], 'takes_levels', False)
            or (by_rows and 'weight' not in takes)
        ):
            raise ValueError(
                f'LogitKD: {name}: {type(modules[name]).__name__} compares feature maps; use it in '
                'FeatureKD'
            )
        if unknown := sorted(set(getattr(modules[name], 'asks', ())) - set(gives)):
            raise ValueError(
                f'LogitKD: {name}: {type(modules[name]).__name__} asks for {unknown[0]}, which '
                'predictions of this family do not come with; take another loss'
            )
    return modules, weights
