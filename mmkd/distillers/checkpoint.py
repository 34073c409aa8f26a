"""Reading somebody's weight file without trusting it, and loading it without gaps.

A file is only ever unpickled with ``weights_only=True``. What mmengine writes beside the weights
(message hub, numpy scalars) is replaced by an inert stand-in while it is read, so nothing outside
torch's own allow-list is ever called.
"""

import copy
import json
import logging
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from .download import fetch, file_sha256, reason

_SHOWN = 3  # names in an error message
_REFUSED_GLOBAL = re.compile(r'GLOBAL (\S+) (?:was not|whose)')
_SIZE_MISMATCH = re.compile(
    r'size mismatch for (\S+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, '
    r'the shape in current model is torch\.Size\((.*?)\)'
)


class _Skipped:
    """Takes the place of an object that is no weight: built from anything, keeps nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def _stand_in(name: str, base: type = _Skipped) -> type:
    """A class that torch's unpickler takes for the global ``name``."""
    module, _, own_name = name.rpartition('.')
    return type(own_name, (base,), {'__module__': module})


# mmengine pickles `HistoryBuffer` with its methods, as `getattr(HistoryBuffer, 'mean')`; with both
# names bound to stand-ins, nothing is looked up and nothing is run.
_STAND_INS = [
    _stand_in('mmengine.logging.history_buffer.HistoryBuffer'),
    _stand_in('mmengine.config.config.ConfigDict', dict),
    _stand_in('builtins.getattr'),
    _stand_in('builtins.slice'),
    _stand_in('numpy.ndarray'),
    _stand_in('numpy.dtype'),
    # The folder has an underscore since numpy 2.
    _stand_in('numpy._core.multiarray._reconstruct'),
    _stand_in('numpy._core.multiarray.scalar'),
    _stand_in('numpy.core.multiarray._reconstruct'),
    _stand_in('numpy.core.multiarray.scalar'),
]


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one file and what is written beside them.

    Attributes:
        state_dict: tensors by parameter and buffer name, on the CPU.
        meta: what the file says of itself (``meta`` of an mmengine file, the metadata of a
            safetensors file); objects that are neither tensors nor plain Python are inert.
        path: the local file.
        sha256: of the file's bytes, in hexadecimal.
        averaged: whether the tensors are an average that mmengine's ``EMAHook`` kept.
        parts: what a distillation wrote beside its student: state dicts of adapters and exits by
            the user's names, averaged where the tensors are; ``None`` in another file.
    """

    state_dict: dict
    meta: dict
    path: str
    sha256: str
    averaged: bool = False
    parts: dict | None = None


def read_checkpoint(source: str, without_ema: bool = False) -> Checkpoint:
    """Read a weight file: a torch file, a ``.safetensors`` file, or a URL of either.

    A URL is kept in torch.hub's ``checkpoints`` folder. A name that ends in ``-<sha256 prefix>``
    is checked against the bytes, when downloaded and each time the kept file is used; without
    such a prefix the kept file's name carries a mark of the URL, so that two addresses never
    share a file.

    Args:
        source: a path or a URL.
        without_ema: of a file that an ``EMAHook`` took part in, the weights of the last step
            instead of their average. The hook swaps the two when it saves: ``state_dict`` is the
            average, and what was trained lies under ``ema_state_dict``.

    Raises:
        ValueError: the file is missing, damaged, holds code instead of tensors, has no tensors
            inside, cannot be downloaded, contradicts the hash in its name, or has no average to
            do without.
    """
    if source.startswith(('http://', 'https://')):
        path, sha256 = fetch(source)
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise ValueError(f'the checkpoint file {source!r} does not exist: correct the path')
        sha256 = file_sha256(path)
    read = _read_safetensors if path.suffix == '.safetensors' else _read_torch
    state_dict, meta, swapped, beside = read(path)
    if without_ema:
        if swapped is None:
            raise ValueError(
                f'{path} holds no average (no ema_state_dict): its weights are those of the last '
                'step already'
            )
        state_dict = swapped
    averaged = swapped is not None and not without_ema
    parts = (averaged and beside.get('ema')) or beside.get('parts')
    return Checkpoint(_strip_module_prefix(state_dict), meta, str(path), sha256, averaged, parts)


def load_strict(model: nn.Module, checkpoint: Checkpoint, what: str) -> None:
    """Fill every parameter and persistent buffer of ``model`` from ``checkpoint``, or none.

    The load is tried on a copy first, so that the model's own hooks that rename or reshape old
    weights take part, and a file that does not fit leaves the model as it was. Missing
    ``num_batches_tracked`` are accepted; superfluous weights are warned of.

    Args:
        what: how messages call the model, as ``"the teacher 'big'"``.

    Raises:
        ValueError: anything stays unfilled or has another shape.
    """
    missing, unexpected, wrong = _try_load(copy.deepcopy(model), checkpoint.state_dict)
    if missing or wrong:
        wanted = [name for name in model.state_dict() if not _is_counter(name)]
        parts = []
        if set(wanted) <= {*missing, *(name for name, _, _ in wrong)}:
            parts.append('it belongs to another architecture, none of its weights fits')
        if missing:
            parts.append(f'{len(missing)} of {len(wanted)} weights are missing ({_some(missing)})')
        if wrong:
            shapes = [f'{name}: {file} in the file, {own} here' for name, file, own in wrong]
            parts.append(f'{len(wrong)} have another shape ({_some(shapes)})')
        raise ValueError(
            f'{what} cannot be filled from {checkpoint.path}: {"; ".join(parts)}; give the config '
            'that this file was trained with, or the file that belongs to this config'
        )
    if unexpected:
        print_log(
            f'{len(unexpected)} weights in {checkpoint.path} have no place in {what} and are '
            f'left out: {_some(unexpected)}',
            logger='current',
            level=logging.WARNING,
        )
    model.load_state_dict(checkpoint.state_dict, strict=False)


def checkpoint_classes(meta: dict) -> tuple[str, ...] | None:
    """Class names that a checkpoint's ``meta`` records; None where it records none."""
    dataset_meta = meta.get('dataset_meta')
    for place in (dataset_meta, meta):
        if not isinstance(place, dict):
            continue
        names = place.get('classes', place.get('CLASSES'))
        if isinstance(names, (list, tuple)) and names:
            return tuple(str(name) for name in names)
    return None


def _try_load(trial: nn.Module, state_dict: dict) -> tuple[list[str], list[str], list[tuple]]:
    """Load into ``trial``; names missing, names superfluous, (name, file shape, own shape)."""
    seen = {}

    def note(module, incompatible):
        # The lists are read here because a size mismatch raises and returns none of them.
        seen['missing'] = list(incompatible.missing_keys)
        seen['unexpected'] = list(incompatible.unexpected_keys)

    trial.register_load_state_dict_post_hook(note)
    wrong = []
    try:
        trial.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        wrong = _SIZE_MISMATCH.findall(str(error))
        if not wrong:
            raise
    missing = [name for name in seen['missing'] if not _is_counter(name)]
    return missing, seen['unexpected'], wrong


def _is_counter(name: str) -> bool:
    return name.rpartition('.')[2] == 'num_batches_tracked'


def _some(names: list[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def _read_torch(path: Path) -> tuple[dict, dict, dict | None, dict]:
    """Weights, meta, the weights that EMAHook swapped away, and what a distillation left."""
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            content = torch.load(path, map_location='cpu', weights_only=True)
    # A damaged archive can surface as nearly any exception of the unpickler or the zip reader.
    except Exception as error:
        refused = _REFUSED_GLOBAL.search(str(error))
        if refused:
            raise ValueError(
                f'{path} holds code instead of tensors ({refused[1]}) and was not run: convert it '
                'to safetensors, or save its state_dict alone where you trust it'
            ) from error
        raise ValueError(
            f'{path} is truncated or no weight file ({reason(error)}): get it again'
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{path} holds a {type(content).__name__}, no dictionary of tensors: save the '
            "model's state_dict"
        )
    state_dict = content.get('state_dict', content)
    if not isinstance(state_dict, dict) or not any(map(torch.is_tensor, state_dict.values())):
        keys = _some([str(key) for key in content])
        raise ValueError(
            f"no tensors inside {path} (its keys: {keys}): save the model's state_dict, alone or "
            "under the key 'state_dict'"
        )
    meta = content.get('meta')
    swapped = content.get('ema_state_dict')
    if isinstance(swapped, dict):
        swapped.pop('steps', None)  # of the average, no weight
    else:
        swapped = None
    beside = content.get('distill_state')
    beside = beside if isinstance(beside, dict) else {}
    return state_dict, meta if isinstance(meta, dict) else {}, swapped, beside


def _read_safetensors(path: Path) -> tuple[dict, dict, None, dict]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ValueError(f'{path} needs the package safetensors: pip install safetensors') from None
    try:
        with safe_open(str(path), framework='pt') as file:
            state_dict = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
            written = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f'{path} is truncated or no safetensors file ({reason(error)}): get it again'
        ) from error
    if not state_dict:
        raise ValueError(f"no tensors inside {path}: save the model's state_dict")
    return state_dict, {key: _from_json(value) for key, value in written.items()}, None, {}


def _from_json(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _strip_module_prefix(state_dict: dict) -> dict:
    """Undo what a parallel wrapper put before every name; keep the modules' format versions."""
    prefix = 'module.'
    if not all(name.startswith(prefix) for name in state_dict):
        return state_dict
    stripped = OrderedDict((name[len(prefix) :], value) for name, value in state_dict.items())
    versions = getattr(state_dict, '_metadata', None)
    if versions is not None:
        # Modules read their format version from here when they rename old weights.
        stripped._metadata = OrderedDict(
            (name[len(prefix) :], value) for name, value in versions.items() if name
        )
    return stripped
