"""What a model computes on synthetic images, layer by layer, as hashes.

Run as a process it speaks for the two files of an exported student, where no mmkd can be imported:
``python tools/_stock_outputs.py CONFIG WEIGHTS THREADS`` prints a JSON list as its last line.
"""

import hashlib
import json
import sys
from collections.abc import Iterator

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.structures import BaseDataElement
from safetensors.torch import load_file
from torch import Tensor, nn

SIDE = 256  # pixels
IMAGES = 2


@torch.no_grad()
def outputs(model: nn.Module) -> list[tuple[str, str]]:
    """Names and hashes of what every layer gives, call by call, and of the final predictions.

    The two images of noise go the whole way: through the preprocessor, the network and the
    decoding. Layers are modules without children, whose outputs count where the next one has not
    changed them in place yet.
    """
    found = []

    def listen(name: str):
        def note(module, inputs, output) -> None:
            found.extend((name, _hash(tensor)) for tensor in _tensors(output))

        return note

    layers = [
        (name, module) for name, module in model.named_modules() if not any(module.children())
    ]
    hooks = [module.register_forward_hook(listen(name)) for name, module in layers]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    shape = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0))
    samples = [BaseDataElement(metainfo=shape) for _ in range(IMAGES)]
    predictions = model.test_step(dict(inputs=list(pixels), data_samples=samples))
    for hook in hooks:
        hook.remove()
    return found + [('predictions', _hash(tensor)) for tensor in _tensors(predictions)]


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, BaseDataElement)):
        for _, item in sorted(value.items()):
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _hash(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    kind = f'{tensor.dtype} {tuple(tensor.shape)}'
    return hashlib.sha256(kind.encode() + content).hexdigest()


def _from_files(config: str, weights: str) -> nn.Module:
    """The stock model, filled as a user of stock mmdet or mmseg fills it, but strictly."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model = MODELS.build(cfg.model)
    if weights.endswith('.safetensors'):
        model.load_state_dict(load_file(weights), strict=True)
    else:
        load_checkpoint(model, weights, map_location='cpu', strict=True)
    return revert_sync_batchnorm(model).eval()


if __name__ == '__main__':
    sys.modules['mmkd'] = None  # importing it raises from here on
    torch.set_num_threads(int(sys.argv[3]))
    print(json.dumps(outputs(_from_files(*sys.argv[1:3]))))
