"""mmkd's registries: children of mmengine's, scope ``mmkd``.

A type written as ``mmkd.Name`` in any config is found here, and types inside ``terms`` and
``exits`` are looked up here first.
"""

import difflib
import inspect
import re

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope, Registry
from torch import nn

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='mmkd',
    locations=[
        'mmkd.distillers',
        'mmkd.terms',
        'mmkd.exits',
        'mmkd.losses',
        'mmkd.adapters',
        'mmkd.regions',
    ],
)
FAMILIES = Registry('family', scope='mmkd', locations=['mmkd.families'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmkd', locations=['mmkd.hooks'])

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def build(cfg: dict, where: str, kind: str | None = None, **extra) -> nn.Module:
    """Builds one loss, adapter, region, term or exit; an unknown type or argument is one line.

    Args:
        cfg: its config with ``type``; types resolve in mmkd's registry first.
        where: what is being built, named in errors.
        kind: ``'term'`` or ``'exit'`` where nothing else may be built.
        **extra: further constructor arguments.

    Raises:
        ValueError: for anything the config gets wrong.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise ValueError(f'{where}: {cfg!r} must be a dict with a type')
    cfg = {k: v for k, v in cfg.items() if k != '_scope_'}
    name = cfg['type']
    if isinstance(name, str):
        MODELS.import_from_location()
        known = list(MODELS.module_dict)
        if '.' not in name and name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)
            raise ValueError(f'{where}: unknown type {name!r}; nearest: {", ".join(near)}')
    target = MODELS.get(name) if isinstance(name, str) else name
    if kind is not None and getattr(target, 'kind', None) != kind:
        fitting = [n for n, t in MODELS.module_dict.items() if getattr(t, 'kind', None) == kind]
        raise ValueError(
            f'{where}: {name!r} is not a type of {kind}; write one of {", ".join(fitting)}'
        )
    try:
        return MODELS.build(dict(cfg, **extra, _scope_='mmkd'))
    except (TypeError, KeyError, ImportError) as error:
        reason = ' '.join(str(error).split())
        unexpected = _UNEXPECTED.search(reason)
        if unexpected and unexpected[1] in cfg:
            reason = f'unknown argument {unexpected[1]!r}; it has {", ".join(_arguments(target))}'
        raise ValueError(f'{where}: cannot build {name!r}: {reason}') from error
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error


def _arguments(target: type) -> list[str]:
    """What a class can be told, its parents included as far as it passes ``**kwargs`` on."""
    names = []
    for cls in inspect.getmro(target):
        parameters = inspect.signature(cls).parameters.values()
        names += [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return list(dict.fromkeys(names))


def build_in_scope(cfg: dict, what: str) -> nn.Module:
    """Builds a stock model in its own library's scope.

    Raises:
        ValueError: if it cannot be built.
    """
    cfg = dict(cfg)
    scope = cfg.pop('_scope_', None)
    if scope is None:
        current = DefaultScope.get_current_instance()
        scope = current.scope_name if current else None
    if scope in (None, 'mmengine', 'mmkd'):
        raise ValueError(
            f"{what}: in which library is {cfg.get('type')!r}? set default_scope='mmdet' (or "
            "'mmseg') in the config"
        )
    try:
        return MMENGINE_MODELS.build(dict(cfg, _scope_=scope))
    except (TypeError, KeyError) as error:
        raise ValueError(f'{what}: cannot be built: {" ".join(str(error).split())}') from error
