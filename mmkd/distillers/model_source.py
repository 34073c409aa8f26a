"""From what a user writes as a model's config to a model config that can be built."""

import copy
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file, load
from mmengine.registry import DATASETS, DefaultScope

_IN_PACKAGE = re.compile(r'(\w+)::(.+)')
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@dataclass
class ModelSource:
    """A model that can be built, and what its config tells about it.

    Attributes:
        model: the model's config; carries ``_scope_`` where its library is known, and never asks
            for pretrained weights.
        classes: class names of the config's data set, None where it has none.
        published: URL of the weights that the library lists for this config.
        name: a short name for messages, the config's file name or the model's type.
    """

    model: dict
    classes: tuple[str, ...] | None
    published: str | None
    name: str


def resolve_model(config: str | dict | Config, overrides: dict | None = None) -> ModelSource:
    """Find a model's config.

    Args:
        config: ``'package::path'`` for a config that an installed library ships, a file, a
            model's own dict (it has a ``type``), or a whole config (it has a ``model``).
        overrides: merged into the model's dict as a child config would be, ``_delete_`` included.

    Raises:
        ValueError: the package or the file is absent, the config cannot be read or has no model,
            or an override does not fit.
    """
    published = default_scope = None
    if isinstance(config, str):
        name = Path(config).stem
        file = find_config(config)
        in_package = _IN_PACKAGE.fullmatch(config)
        if in_package:
            default_scope, path = in_package.groups()
            published = _published(_config_folder(default_scope, config), path)
        whole = _read(file, config)
    elif 'model' in config:
        whole = config if isinstance(config, Config) else ConfigDict(copy.deepcopy(config))
        name = None
    elif 'type' in config:
        whole, name = ConfigDict(model=copy.deepcopy(config)), None
    else:
        raise ValueError(
            f'a model config of the keys {sorted(config)} has neither a type nor a model: give '
            "'package::path', a file, dict(type=...) or a whole config"
        )
    if not isinstance(whole.get('model'), dict):
        raise ValueError(f'the config {config!r} has no model dict: give one that defines a model')
    model = _merged(whole, overrides)
    scope = whole.get('default_scope') or default_scope or _current_scope()
    if scope:
        model.setdefault('_scope_', scope)
    _forget_pretrained(model)
    kind = model['type']
    name = name or (kind if isinstance(kind, str) else kind.__name__)
    return ModelSource(model, _classes(whole, scope), published, name)


def find_config(config: str) -> Path:
    """The file behind ``'package::path'`` or a path.

    Raises:
        ValueError: the package or the file is absent.
    """
    in_package = _IN_PACKAGE.fullmatch(config)
    if in_package:
        package, path = in_package.groups()
        folder = _config_folder(package, config)
        file, prefix, files = folder / path, f'{package}::', folder.rglob('*.py')
    else:
        file = Path(config).expanduser()
        folder, path = file.parent, file.name
        prefix, files = f'{folder}/', folder.glob('*.py')
    if not file.is_file():
        raise ValueError(_absent(config, prefix, files, folder, path))
    return file


def _config_folder(package: str, config: str) -> Path:
    """Where an installed library keeps its configs; found without importing or installing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(
            f'the config {config!r} needs the package {package}, which is not installed: install '
            'it or correct the name before the ::'
        )
    root = Path(spec.origin).parent
    shipped = root / '.mim' / 'configs'
    return shipped if shipped.is_dir() else root.parent / 'configs'


def _absent(config: str, prefix: str, files: Iterable[Path], folder: Path, path: str) -> str:
    names = [file.relative_to(folder).as_posix() for file in files]
    near = [prefix + name for name in difflib.get_close_matches(path, names, n=3, cutoff=0.6)]
    hint = f'did you mean {", ".join(near)}?' if near else 'correct the path'
    return f'the config {config!r} does not exist: {hint}'


def _read(file: Path, config: str) -> Config:
    try:
        return Config.fromfile(str(file))
    # A config is a program of the user's: anything can come out of it.
    except Exception as error:
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'the config {config!r} cannot be read ({type(error).__name__}: {reason}): correct it'
        ) from error


def _merged(whole: Config | dict, overrides: dict | None) -> ConfigDict:
    """The whole config's model with the overrides, as a copy."""
    base = Config(dict(model=copy.deepcopy(whole['model'])))
    # The runner gives the model a top-level preprocessor in the same way.
    if whole.get('data_preprocessor') is not None:
        base.model.setdefault('data_preprocessor', copy.deepcopy(whole['data_preprocessor']))
    try:
        base.merge_from_dict(dict(model=copy.deepcopy(overrides or {})))
    except TypeError as error:
        raise ValueError(f'overrides do not fit the model: {error}') from error
    if 'type' not in base.model:
        raise ValueError("the model config has no 'type' after its overrides: add one to them")
    return base.model


def _current_scope() -> str | None:
    current = DefaultScope.get_current_instance()
    return current and current.scope_name


def _forget_pretrained(config: Any) -> None:
    """Take out, in place, whatever would fetch weights when the model initialises itself."""
    if isinstance(config, (list, tuple)):
        for item in config:
            _forget_pretrained(item)
    elif isinstance(config, dict):
        for key, value in config.items():
            if key == 'pretrained' or (key == 'init_cfg' and _is_pretrained(value)):
                config[key] = None
            elif key == 'init_cfg' and isinstance(value, (list, tuple)):
                config[key] = [item for item in value if not _is_pretrained(item)]
            else:
                _forget_pretrained(value)


def _is_pretrained(init_cfg: Any) -> bool:
    kind = init_cfg.get('type') if isinstance(init_cfg, dict) else None
    kind = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return kind.rpartition('.')[2] in ('Pretrained', 'PretrainedInit')


def _published(folder: Path, path: str) -> str | None:
    """URL of the weights that the library's metafiles list first for a config, if any."""
    beside = sorted((folder / path).parent.glob('metafile.y*ml'))
    others = (file for file in sorted(folder.rglob('metafile.y*ml')) if file not in beside)
    for file in (*beside, *others):
        # Parsing YAML costs a hundred times what searching its text costs.
        if path not in file.read_text(encoding='utf-8'):
            continue
        content = load(str(file))
        entries = content.get('Models', []) if isinstance(content, dict) else content
        for entry in entries:
            if entry.get('Config') == f'configs/{path}' and entry.get('Weights'):
                return entry['Weights']
    return None


def _classes(whole: Config | dict, scope: str | None) -> tuple[str, ...] | None:
    """Class names of the first data set in the config that has any."""
    datasets = [
        dataset
        for loader in _LOADERS
        if isinstance(whole.get(loader), dict)
        for dataset in _innermost(whole[loader].get('dataset'))
    ]
    for dataset in datasets:
        names = _names(dataset.get('metainfo'))
        if names:
            return names
    for dataset in datasets:
        names = _names(getattr(_dataset_class(dataset, scope), 'METAINFO', None))
        if names:
            return names
    return None


def _innermost(dataset: Any) -> Iterator[dict]:
    """The data sets inside wrappers that repeat, mix or join others."""
    if not isinstance(dataset, dict):
        return
    inside = dataset.get('datasets', [dataset.get('dataset')])
    inside = [item for item in inside if isinstance(item, dict)]
    if not inside:
        yield dataset
    for item in inside:
        yield from _innermost(item)


def _names(metainfo: Any) -> tuple[str, ...] | None:
    if not isinstance(metainfo, dict):
        return None
    names = metainfo.get('classes', metainfo.get('CLASSES'))
    if isinstance(names, str):
        # mmengine's data sets take a name for a file of names where there is such a file.
        names = list_from_file(names) if Path(names).is_file() else None
    return tuple(names) if names else None


def _dataset_class(dataset: dict, scope: str | None) -> type | None:
    kind = dataset.get('type')
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_', scope)) as registry:
        return registry.get(kind)
