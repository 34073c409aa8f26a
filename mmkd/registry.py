"""mmkd's registries: children of mmengine's, scope ``mmkd``.

A type written as ``mmkd.Name`` in any config is found here, and types inside ``terms`` and
``exits`` are looked up here first.
"""

import difflib
import inspect
import re

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope, Registry, root
from torch import nn


class _Registry(Registry):
    """Scope ``mmkd``: its own types, and else those of the library whose scope lies around it.

    mmengine marks all that comes from ``_base_ = 'mmkd::...'`` with the scope ``mmkd``, also what
    is mmdet's or mmseg's.
    """

    def get(self, key: str):
        self.import_from_location()
        library = _library_around()
        if library and '.' not in key and key not in self.module_dict:
            found = self.root.get(f'{library}.{key}')
            if found is not None:
                return found
        return super().get(key)


def _library_around() -> str | None:
    """The innermost default scope that is a library's."""
    for scope in reversed(DefaultScope._instance_dict.values()):
        if scope.scope_name not in ('mmengine', 'mmkd'):
            return scope.scope_name
    return None


MODELS = _Registry(
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
HOOKS = _Registry('hook', parent=MMENGINE_HOOKS, scope='mmkd', locations=['mmkd.hooks'])
for _other in vars(root).values():
    if isinstance(_other, Registry) and 'mmkd' not in _other.children:
        _Registry(_other.name, parent=_other, scope='mmkd', locations=['mmkd'])

_OWN = "a type of your own needs custom_imports=dict(imports=['its_package'])"
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
    target = _find(name, where) if isinstance(name, str) else name
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


def _find(name: str, where: str):
    """A type by its name here, or by ``scope.Name`` or ``package.Name`` elsewhere."""
    MODELS.import_from_location()
    known = list(MODELS.module_dict)
    if '.' not in name and name not in known:
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)
        raise ValueError(f'{where}: unknown type {name!r}; nearest: {", ".join(near)}; {_OWN}')
    try:
        target = MODELS.get(name)
    except RuntimeError:  # what mmengine makes of a name that is neither registered nor importable
        target = None
    if target is None:
        raise ValueError(f'{where}: unknown type {name!r}: no such registry or module; {_OWN}')
    return target


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
    scope = library_of(cfg, what)
    try:
        return MMENGINE_MODELS.build(dict(cfg, _scope_=scope))
    except (TypeError, KeyError) as error:
        raise ValueError(f'{what}: cannot be built: {" ".join(str(error).split())}') from error


def library_of(cfg: dict, what: str) -> str:
    """The scope that a stock model is built in: its own, the current one, or the only one left.

    A config that a notebook has read has no current scope; then the library that alone registers
    the model's type is it.

    Raises:
        ValueError: if none of them says.
    """
    kind = cfg.get('type')
    named, _ = Registry.split_scope_key(kind) if isinstance(kind, str) else (None, None)
    if named in MMENGINE_MODELS.children:
        return named
    # a base written `mmkd::...` marks what is taken from it with mmkd's own scope
    own = cfg.get('_scope_')
    scope = own if own not in (None, 'mmengine', 'mmkd') else _library_around()
    if scope:
        return scope
    owners = []
    for scope, registry in MMENGINE_MODELS.children.items():
        if scope != 'mmkd':
            registry.import_from_location()
            if str(kind).removeprefix(f'{scope}.') in registry.module_dict:
                owners.append(scope)
    if len(owners) != 1:
        raise ValueError(
            f"{what}: in which library is {kind!r}? set default_scope='mmdet' (or 'mmseg') in the "
            'config'
        )
    return owners[0]
