"""Train a student by a distillation config, or any stock mmdet / mmseg config.

Example: ``python tools/train.py CONFIG --work-dir work_dirs/mine --cfg-options randomness.seed=0``

SIGUSR1 and SIGTERM end a run after the step begun, saved, with exit code 85: see docs/slurm.md.
"""

import argparse
import sys
from pathlib import Path

import torch
from _common import add_shared_arguments, build_runner, load_config, run_tool
from _fraction import take_fraction
from _stretch import stretch
from mmengine.config import Config

from mmkd.hooks import PreemptionHook


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; the arguments mean what they mean in mmdet's tool."""
    parser = argparse.ArgumentParser(description='Train a student, distilled or alone')
    parser.add_argument('config', help='config file of a distillation or of a stock model')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision (GPU)')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the rate to the batch')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='checkpoint to go on from; alone: the last one in the work dir, if there is one',
    )
    parser.add_argument(
        '--fraction', type=float, default=1, metavar='F',
        help='train on a share of the data: stratified, fixed by the seed, within any larger share',
    )  # fmt: skip
    parser.add_argument(
        '--schedule', type=float, default=1, metavar='X', help="train X times the config's length"
    )
    add_shared_arguments(parser)
    return parser.parse_args(argv)


def set_amp(cfg: Config) -> None:
    """Turn on mixed precision.

    Raises:
        ValueError: There is no GPU; ``AmpOptimWrapper`` cannot be built without one.
    """
    if not torch.cuda.is_available():
        raise ValueError("--amp needs a GPU (mmengine's AmpOptimWrapper refuses a CPU): drop --amp")
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_auto_scale_lr(cfg: Config) -> None:
    """Turn on the scaling of the learning rate by the batch size.

    Raises:
        ValueError: The config does not say for which batch size its rate was chosen.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size in the config: '
            'add auto_scale_lr = dict(enable=True, base_batch_size=16)'
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str) -> None:
    """Resume from a file, or by ``'auto'`` from the last checkpoint in the work dir.

    Where the work dir holds none yet, ``'auto'`` starts as without the option, so that a
    ``load_from`` of the config keeps its meaning.

    Raises:
        ValueError: The named file, or the one that the work dir names as its last, is missing.
    """
    checkpoint = resume
    if resume == 'auto':
        pointer = Path(cfg.work_dir) / 'last_checkpoint'
        if not pointer.is_file():
            print(f'No checkpoint in {cfg.work_dir} to resume from: starting from the beginning.')
            return
        checkpoint = pointer.read_text().strip()
        if not Path(checkpoint).is_file():
            # The work dir was moved: the pointer holds the path of the day it was written.
            checkpoint = str(pointer.parent / Path(checkpoint).name)
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise ValueError(f'--resume: no checkpoint {checkpoint!r}: name an existing file')
    cfg.resume = True
    cfg.load_from = checkpoint


def main(args: argparse.Namespace) -> None:
    """Read the config, apply the arguments, train."""
    cfg = load_config(args)
    if args.amp:
        set_amp(cfg)
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg)
    if args.resume:
        set_resume(cfg, args.resume)
    stretch(cfg, args.schedule)
    if args.fraction != 1:
        print(f'Training on {take_fraction(cfg, args.fraction)} images, {args.fraction:g} of all.')
    runner = build_runner(cfg)
    if not any(isinstance(hook, PreemptionHook) for hook in runner.hooks):
        runner.register_hook(PreemptionHook())
    runner.train()


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
