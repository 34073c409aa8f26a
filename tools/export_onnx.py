"""Write a detector's or segmentor's network as an ONNX file of a fixed input size.

Example: ``python tools/export_onnx.py student.py student.pth student.onnx --shape 800 1344``

Input ``images`` is ``[1, 3, H, W]`` as the model's data preprocessor gives it (normalised, padded).
A segmentor gives ``logits`` ``[1, K, H, W]``, a detector its head's raw maps, level by level
(``cls_0``, ..., ``box_0``, ...): decoding and NMS stay outside. The file appears only after
onnxruntime has computed with it what torch computes.
"""

import argparse
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from _common import run_tool
from _student import stock_config, trained_student
from torch import Tensor, nn

from mmkd.distillers.checkpoint import read_checkpoint
from mmkd.families import find_family

_PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
_TOLERANCE = 1e-4  # of an output's largest value


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Export a network to ONNX')
    parser.add_argument('config', help='config of the distillation or of the stock model')
    parser.add_argument('checkpoint', help='checkpoint of a run, or an exported student')
    parser.add_argument('out', metavar='OUT.onnx')
    parser.add_argument('--shape', nargs=2, type=int, required=True, metavar=('H', 'W'))
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')
    parser.add_argument('--debug', action='store_true', help="show a mistake's traceback")
    return parser.parse_args(argv)


class Network(nn.Module):
    """A stock model from the normalised images to what its last layers give."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._family = find_family(model)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps by name, for ``[1, 3, H, W]``.

        Raises:
            ValueError: no family knows what the model's head gives.
        """
        if hasattr(self.model, 'encode_decode'):  # mmseg's: logits at the size of the image
            size = tuple(images.shape[2:])
            logits = self.model.encode_decode(images, [dict(img_shape=size, ori_shape=size)])
            return dict(logits=logits)
        if not hasattr(self._family, 'head_outputs'):
            raise ValueError(
                f'{self._family.kind} cannot be exported: it is no segmentor and no dense detector '
                'whose head mmkd knows'
            )
        outputs = self._family.forward(self.model, images, []).outputs
        maps = ((kind, enumerate(levels)) for kind, levels in outputs.items())
        return {f'{kind}_{level}': x for kind, levels in maps for level, x in levels}


@torch.no_grad()
def export(network: nn.Module, shape: tuple[int, int], path: Path) -> tuple[list[str], float]:
    """Write the file, and compare it with torch on noise.

    Returns:
        The outputs' names, and the largest difference in any, relative to its largest value.

    Raises:
        ValueError: It is above 1e-4.
    """
    import onnxruntime

    images = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    names = list(expected)
    torch.onnx.export(
        network,
        (images,),
        str(path),
        input_names=['images'],
        output_names=names,
        dynamo=True,  # the older exporter refuses adaptive pooling, which PSP and UPer heads have
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    found = session.run(names, dict(images=images.numpy()))
    worst = 0.0
    for name, values in zip(names, found):
        difference = (torch.from_numpy(values) - expected[name]).abs().max()
        relative = float(difference / expected[name].abs().max())
        if not relative <= _TOLERANCE:
            raise ValueError(f'nothing exported: {name} of onnxruntime is off by {relative:.1e}')
        worst = max(worst, relative)
    return names, worst


def main(args: argparse.Namespace) -> None:
    """Read, export, check, and put the file in its place."""
    out = Path(args.out)
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} not installed: pip install -e '.[onnx]'")
    if out.suffix != '.onnx':
        raise ValueError(f'OUT must end in .onnx: {args.out}')
    if out.exists() and not args.force:
        raise ValueError(f'{out} exists: give OUT another name, or overwrite it by --force')
    student = trained_student(stock_config(args.config), read_checkpoint(args.checkpoint))
    network = Network(student).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.export-') as folder:
        draft = Path(folder) / out.name
        names, worst = export(network, tuple(args.shape), draft)
        os.replace(draft, out)
    print(f'{args.checkpoint} -> {out} ({out.stat().st_size / 1e6:.2f} MB)')
    print(f'input     images [1, 3, {args.shape[0]}, {args.shape[1]}], normalised')
    print(f'outputs   {", ".join(names)}')
    print(
        f'checked   onnxruntime against torch: largest difference {worst:.1e} of the largest value'
    )


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
