"""Builds a criterion's losses from their configs."""

from torch import nn

from mmkd.registry import build


def build_losses(overrides: dict, defaults: dict) -> tuple[nn.ModuleDict, dict[str, float]]:
    """Builds a criterion's losses by name, each with its ratio to the others.

    Args:
        overrides: loss configs by name; ``loss_weight`` inside is its ratio (1 by default) and
            ``None`` switches the loss off.
        defaults: the loss configs that the criterion has where nothing is overridden.

    Returns:
        the losses that are on, and their ratios.

    Raises:
        ValueError: on a name the criterion does not have.
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
    return modules, weights
