"""Test a student as the stock model that it is, or with ``--teacher`` the teacher that taught it.

Examples:
    ``python tools/test.py CONFIG work_dirs/mine/iter_1000.pth``
    ``python tools/test.py CONFIG --teacher``
"""

import argparse
import inspect
import sys
from copy import deepcopy
from pathlib import Path

from _common import add_shared_arguments, build_runner, load_config, run_tool
from _per_image import write_per_image
from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS, METRICS

from mmkd.hooks.distill import student_config

_DISTILLER = 'mmkd.Distiller'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; the arguments mean what they mean in mmdet's tool."""
    parser = argparse.ArgumentParser(description='Test a student or, with --teacher, its teacher')
    parser.add_argument('config', help='config file of a distillation or of a stock model')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint of the student')
    parser.add_argument(
        '--teacher', action='store_true', help='judge the teacher through the path that teaches'
    )
    parser.add_argument(
        '--split', choices=['test', 'val'], default='test', help='which data of the config'
    )
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to this file')
    parser.add_argument(
        '--per-image', metavar='FILE.npz', help='write what scores any resample of the images'
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='folder for painted predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per shown picture')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_shared_arguments(parser)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace, distilled: bool) -> None:
    """Refuse combinations that cannot be tested.

    Raises:
        ValueError: One line naming the argument and the fix.
    """
    if args.teacher and args.checkpoint:
        raise ValueError('--teacher takes its weights from the config: drop CHECKPOINT')
    if args.teacher and not distilled:
        raise ValueError(f'--teacher needs a config whose model is {_DISTILLER}: {args.config}')
    if not args.teacher and not args.checkpoint:
        raise ValueError('CHECKPOINT is missing: name a .pth file, or judge the teacher: --teacher')
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out writes a pickle, got {args.out!r}: end its name in .pkl')
    if args.per_image and not args.per_image.endswith('.npz'):
        raise ValueError(f'--per-image writes an .npz file, got {args.per_image!r}: end it in .npz')


def use_validation_split(cfg: Config) -> None:
    """Let the test loop read the config's validation data and metrics."""
    cfg.test_dataloader = deepcopy(cfg.val_dataloader)
    cfg.test_evaluator = deepcopy(cfg.val_evaluator)


def set_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Make the config's visualization hook draw, show or save.

    Raises:
        ValueError: The config has no visualization hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need a hook in the config: add '
            "default_hooks = dict(visualization=dict(type='DetVisualizationHook')) "
            "('SegVisualizationHook' for mmseg)"
        )
    hook.draw = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir:
        with HOOKS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            takes_folder = 'test_out_dir' in inspect.signature(registry.get(hook.type)).parameters
        if takes_folder:
            hook.test_out_dir = args.show_dir
        else:
            cfg.visualizer.save_dir = args.show_dir


def set_tta(cfg: Config) -> None:
    """Put the model inside the test-time-augmentation model that the config describes.

    For detectors what is not described is filled in as mmdet's tool does: horizontal flips,
    merged by NMS at an IoU of 0.5.

    Raises:
        ValueError: A segmentor's config describes no such model or pipeline.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing and cfg.get('default_scope') != 'mmdet':
        raise ValueError(f'--tta: the config has no {" and no ".join(missing)}: add it')
    if 'tta_model' in missing:
        merge = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        cfg.tta_model = dict(type='DetTTAModel', tta_cfg=merge)
    if 'tta_pipeline' in missing:
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
        pack = dict(type='PackDetInputs', meta_keys=(*keys, 'flip', 'flip_direction'))
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        views = dict(type='TestTimeAug', transforms=[flips, [pack]])
        cfg.tta_pipeline = [*dataset.pipeline[:-1], views]
    cfg.model = ConfigDict(**{**cfg.tta_model, 'module': cfg.model})
    dataset.pipeline = cfg.tta_pipeline


def build_dump(cfg: Config, path: str) -> object:
    """Build the metric that writes predictions; mmdet's own encodes masks."""
    kind = 'DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
    return METRICS.build(dict(type=kind, out_file_path=path))


def main(args: argparse.Namespace) -> dict:
    """Read the config, apply the arguments, test.

    Returns:
        dict: The metrics, which mmengine also writes as JSON under the work dir.
    """
    cfg = load_config(args)
    distilled = cfg.model.type == _DISTILLER
    check_args(args, distilled)
    if distilled and not args.teacher:
        cfg = student_config(cfg)
    if args.split == 'val':
        use_validation_split(cfg)
    if args.show or args.show_dir:
        set_visualization(cfg, args)
    if args.tta:
        set_tta(cfg)
    cfg.load_from, cfg.resume = args.checkpoint, False

    runner = build_runner(cfg)
    if args.teacher:
        model = runner.model
        while not hasattr(model, 'distillation'):  # inside DDP, test-time augmentation, or both
            model = model.module
        model.judge_teacher(runner.test_loop.dataloader.dataset.metainfo.get('classes'))
    if args.out:
        runner.test_evaluator.metrics.append(build_dump(cfg, args.out))
    if args.per_image:
        evaluator, data = runner.test_evaluator, runner.test_loop.dataloader.dataset
        if not write_per_image(evaluator.metrics, data, Path(args.per_image)):
            kinds = ', '.join(type(metric).__name__ for metric in evaluator.metrics)
            print(f'--per-image: no file is written, as {kinds} cannot be scored by images')
    return runner.test()


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
