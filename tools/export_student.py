"""Write a trained student as two files that need no mmkd: its weights and its stock config.

Examples:
    ``python tools/export_student.py work_dirs/mine/iter_1000.pth student.pth``
    ``python tools/export_student.py work_dirs/mine/iter_1000.pth student.safetensors``

Optimizer, schedules, message hub, adapters and exits stay behind. Both files appear only after a
second process, which cannot import mmkd, has built the stock model from them and computed, bit for
bit, what the trained student computes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from _common import run_tool
from _stock_outputs import IMAGES, SIDE, outputs
from _student import stock_config, trained_student
from safetensors.torch import save_file
from torch import nn

from mmkd.distillers.checkpoint import checkpoint_classes, read_checkpoint

_SUFFIXES = ('.pth', '.safetensors')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Export a trained student for stock inference')
    parser.add_argument('checkpoint', help='file that a distillation or a stock run wrote')
    parser.add_argument('out', help='.pth or .safetensors; the config OUT-stem.py goes beside it')
    parser.add_argument(
        '--config',
        help='of the distillation or of the stock model; default: *.student.py beside CHECKPOINT',
    )
    parser.add_argument(
        '--without-ema',
        action='store_true',
        help='the weights of the last step instead of the average that EMAHook kept',
    )
    parser.add_argument('--force', action='store_true', help='overwrite existing files')
    parser.add_argument('--debug', action='store_true', help="show a mistake's traceback")
    return parser.parse_args(argv)


def check_paths(args: argparse.Namespace) -> tuple[Path, Path]:
    """Give the two files to write.

    Raises:
        ValueError: OUT has another suffix, or a file is in the way.
    """
    out = Path(args.out)
    if out.suffix not in _SUFFIXES:
        raise ValueError(f'OUT must end in {" or ".join(_SUFFIXES)}: {args.out}')
    config = out.with_suffix('.py')
    for path in (out, config):
        sources = [Path(name) for name in (args.checkpoint, args.config) if name]
        if path.exists() and any(s.exists() and path.samefile(s) for s in sources):
            raise ValueError(f'{path} is what is to be exported: give OUT another name')
        if path.exists() and not args.force:
            raise ValueError(f'{path} exists: give OUT another name, or overwrite it by --force')
    return out, config


def config_of_run(args: argparse.Namespace) -> str:
    """Give the named config, or the one that the run wrote beside its checkpoints.

    Raises:
        ValueError: the folder has none or several.
    """
    if args.config:
        return args.config
    folder = Path(args.checkpoint).parent
    found = sorted(folder.glob('*.student.py'))
    if len(found) != 1:
        names = ', '.join(path.name for path in found) or 'no *.student.py'
        raise ValueError(f"{folder} holds {names}: name the run's config by --config")
    return str(found[0])


def stock_meta(meta: dict) -> dict:
    """What stock inference reads of a checkpoint's meta: class names and palette."""
    recorded = meta.get('dataset_meta')
    found = dict(classes=checkpoint_classes(meta))
    if isinstance(recorded, dict) and isinstance(recorded.get('palette'), (list, tuple)):
        found['palette'] = [list(colour) for colour in recorded['palette']]
    return {key: value for key, value in found.items() if value}


def write_weights(path: Path, state_dict: dict, dataset_meta: dict) -> None:
    """Write tensors and class names, as a torch file of mmengine's form or as safetensors."""
    if path.suffix == '.pth':
        torch.save(dict(meta=dict(dataset_meta=dataset_meta), state_dict=state_dict), path)
        return
    # safetensors takes no two names of one tensor
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in state_dict.items()
    }
    save_file(tensors, path, metadata=dict(format='pt', dataset_meta=json.dumps(dataset_meta)))


def prove(student: nn.Module, config: Path, weights: Path) -> str:
    """Compare the trained student with the stock model that the two files give.

    Returns:
        str: What was compared.

    Raises:
        ValueError: The stock model cannot be built, or anything differs.
    """
    script = Path(__file__).with_name('_stock_outputs.py')
    command = [sys.executable, script, config, weights, torch.get_num_threads()]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ['killed'])[-1]
        raise ValueError(f'nothing exported: without mmkd the two files give no model: {reason}')
    ours = outputs(student)
    theirs = [tuple(pair) for pair in json.loads(done.stdout.splitlines()[-1])]
    different = [mine[0] for mine, other in zip(ours, theirs) if mine != other]
    if different or len(ours) != len(theirs):
        first = different[0] if different else 'their number'
        raise ValueError(
            f'nothing exported: {len(different)} of {len(ours)} outputs of the stock model differ '
            f"from the trained student's (first: {first})"
        )
    final = sum(name == 'predictions' for name, _ in ours)
    return (
        f'{len(ours) - final} layer outputs and {final} tensors of predictions on {IMAGES} '
        f'synthetic images of {SIDE}x{SIDE}'
    )


def missing_for_inferencers(cfg: dict) -> str:
    """Which keys mmdet's and mmseg's inferencers would miss in a config."""
    return ', '.join(key for key in ('test_dataloader', 'visualizer') if cfg.get(key) is None)


def main(args: argparse.Namespace) -> None:
    """Read, write, prove, and put both files in their place."""
    out, config = check_paths(args)
    cfg = stock_config(config_of_run(args))
    checkpoint = read_checkpoint(args.checkpoint, args.without_ema)
    student = trained_student(cfg, checkpoint)
    meta = stock_meta(checkpoint.meta)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.export-') as folder:
        draft, draft_config = Path(folder) / out.name, Path(folder) / config.name
        write_weights(draft, student.state_dict(), meta)
        cfg.dump(str(draft_config))
        compared = prove(student, draft_config, draft)
        os.replace(draft, out)
        os.replace(draft_config, config)

    weights = 'those in the file (no EMA took part, or it was exported before)'
    if checkpoint.averaged:
        weights = 'the average that EMAHook kept, which is what validation measured'
    elif args.without_ema:
        weights = 'those of the last step, without EMA'
    before, after = (os.path.getsize(path) / 1e6 for path in (checkpoint.path, out))
    classes = meta.get('classes', ())
    print(f'{args.checkpoint} -> {out}, {config}')
    print(f'weights   {weights}')
    print(f'student   {type(student).__name__}, {_count(student):,} parameters')
    print(
        f'classes   {len(classes)}: {", ".join(classes)}' if classes else 'classes   not recorded'
    )
    print(f'size      {before:.2f} MB -> {after:.2f} MB')
    print(f'proved    bit-identical without mmkd, strict load: {compared}')
    if missing := missing_for_inferencers(cfg):
        print(f'note      DetInferencer and MMSegInferencer need in {config}: {missing}')


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
