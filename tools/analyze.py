"""Show what passed from a teacher to its students, on the validation images.

Examples:
    ``python tools/analyze.py CONFIG work_dirs/mine/iter_1000.pth``
    ``python tools/analyze.py CONFIG kd/iter_1000.pth alone/iter_1000.pth --limit 200``

CONFIG is a distillation: it says who the teacher is, and where. Several checkpoints of its student,
distilled or not, are shown side by side. Written are ``analysis.json``, ``analysis.md`` and
``analysis.png``, and the numbers and the picture go to the config's visualization backends.
"""

import argparse
import itertools
import math
import sys
from pathlib import Path

import torch
from _analyze_models import Listener, build_listeners
from _analyze_report import report, write
from _analyze_stages import Stages
from _common import add_shared_arguments, load_config, run_tool
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from rich.progress import track


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Show what passed from teacher to student')
    parser.add_argument('config', help='config file of a distillation')
    parser.add_argument('checkpoints', nargs='+', help='checkpoints of its student')
    parser.add_argument('--names', nargs='+', help="default: the checkpoints' folders")
    parser.add_argument('--out', help='folder; default: analysis, beside the first checkpoint')
    parser.add_argument('--split', choices=['val', 'test'], default='val', help='images that judge')
    parser.add_argument('--limit', type=int, help='how many of them; default: all')
    parser.add_argument(
        '--probe-images', type=int, default=256, help='training images for probes; 0: no probes'
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='detectors: the least score that says anything'
    )
    parser.add_argument('--teacher', help='which teacher, where several are named')
    parser.add_argument(
        '--taps', nargs='+', help='addresses of the stages; default: backbone, and neck'
    )
    add_shared_arguments(parser)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Refuse numbers that make no sense.

    Raises:
        ValueError: one line that names the argument.
    """
    if args.limit is not None and args.limit < 1:
        raise ValueError(f'--limit {args.limit} must be a number of images >= 1')
    if args.probe_images < 0:
        raise ValueError(f'--probe-images {args.probe_images} must be a number of images >= 0')
    if not 0 <= args.score_thr <= 1:
        raise ValueError(f'--score-thr {args.score_thr} must lie between 0 and 1')
    for path in args.checkpoints:
        if not Path(path).is_file():
            raise ValueError(f'there is no checkpoint {path!r}')


def batches(loader, limit: int | None, what: str):
    """The first batches of a loader, with at least ``limit`` images, and progress."""
    size = loader.batch_size or loader.batch_sampler.batch_size
    length = len(loader) if limit is None else min(len(loader), math.ceil(limit / size))
    yield from track(itertools.islice(loader, length), what, total=length)


def choose(listener: Listener) -> type:
    """What is counted, by the family of the student.

    Raises:
        ValueError: nothing is.
    """
    if listener.family.predicts_pixels and hasattr(listener.family, 'cell_labels'):
        from _analyze_segmentor import SegmentorAnalysis

        return SegmentorAnalysis
    if hasattr(listener.family, 'rename_classes') and hasattr(listener.model, 'predict'):
        from _analyze_detector import DetectorAnalysis

        return DetectorAnalysis
    raise ValueError(f'{listener.family.kind} predicts nothing that this tool knows')


@torch.no_grad()
def analyse(
    cfg: Config, args: argparse.Namespace, teacher: Listener, students: list[Listener]
) -> tuple[Stages, object]:
    """Show the models the images, first those that the probes learn from."""
    judged = Runner.build_dataloader(cfg[f'{args.split}_dataloader'], seed=0)
    classes = tuple(judged.dataset.metainfo['classes'])
    teacher.teacher.start(classes)
    analysis = choose(students[0])(teacher, students, classes, judged, cfg, args)
    stages = Stages(teacher, students, analysis.probe_classes)
    prepare = students[0].model.data_preprocessor
    if args.probe_images:
        shown = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        for data in batches(shown, args.probe_images, 'Probes'):
            data = prepare(data, True)
            inputs, samples = data['inputs'], data['data_samples']
            stages.learn(inputs, samples, analysis.cell_labels(inputs, samples))
        stages.solve()
    for data in batches(judged, args.limit, 'Analysis'):
        data = prepare(data, False)
        inputs, samples = data['inputs'], data['data_samples']
        said, early, probes, maps = {}, {}, {}, {}
        for listener in (teacher, *students):
            name = listener.name
            said[name] = heard = listener.hear(inputs, samples)
            maps[name] = listener.stages(heard)
            probes[name] = stages.read(listener, maps[name])
            found = analysis.exits(listener, heard, inputs)
            early[name] = {where: raw for where, (raw, _) in found.items()}
            if listener is not teacher:
                stages.compare(listener, maps[name], maps['teacher'], inputs, samples)
                _place_exits(listener, found, maps[name])
        stages.seen = {name: list(found) for name, found in maps.items()}
        analysis.images += len(samples)
        analysis.update(inputs, samples, said, early, probes)
    return stages, analysis


def _place_exits(listener: Listener, found: dict, maps: dict) -> None:
    """Remembers which stage each exit stands on, where it is one of those listened to."""
    for where, (_, stands_on) in found.items():
        last = stands_on[-1] if isinstance(stands_on, list) else stands_on
        listener.places[where] = next((name for name, x in maps.items() if x is last), None)


def main(args: argparse.Namespace) -> dict:
    """Build the models, show them the images, write what was found.

    Returns:
        dict: What is written as JSON.
    """
    check_args(args)
    cfg = load_config(args)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    MMLogger.get_instance('analyze', log_level='WARNING')
    set_random_seed(0)
    teacher, students, notes = build_listeners(
        cfg, args.checkpoints, args.names, args.taps, args.teacher
    )
    stages, analysis = analyse(cfg, args, teacher, students)
    result = report(args, analysis, stages, teacher, students, [*notes, *analysis.notes])
    out = Path(args.out or Path(args.checkpoints[0]).parent / 'analysis')
    write(result, out, cfg)
    return result


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
