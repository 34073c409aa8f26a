"""Measure what a distillation costs: student step, teacher forward, distilled step, interleaved.

Examples:
    ``python tools/benchmark.py CONFIG --size 256 --batch-size 2 --random-teacher``
    ``python tools/benchmark.py CONFIG --data --out docs/benchmark``   (the config's own data)
    ``python tools/benchmark.py CONFIG --teacher-options``             (folded BN, bf16, ...)
    ``python tools/benchmark.py CONFIG --teacher-options compile``     (this one alone)

Times are medians over rounds; in each round every part runs once, so that a busy machine is busy
for all of them. What to compare are the ratios.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _benchmark_report import to_markdown, write_summary
from _common import add_shared_arguments, load_config, run_tool
from _provenance import describe_commit, describe_machine
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from rich.progress import track

from mmkd.distillers.model_source import resolve_model
from mmkd.distillers.runtime import Runtime
from mmkd.distillers.teacher import Teacher
from mmkd.families import find_family
from mmkd.registry import MODELS, build_in_scope

_OPTIONS = {
    'nothing': {},
    'fold_bn': dict(fold_bn=True),
    'channels_last': dict(channels_last=True),
    'bfloat16': dict(autocast='bfloat16'),
    'fold_bn, channels_last': dict(fold_bn=True, channels_last=True),
    'fold_bn, channels_last, bfloat16': dict(fold_bn=True, channels_last=True, autocast='bfloat16'),
    'compile': dict(compile=True),
    'fold_bn, compile': dict(fold_bn=True, compile=True),
}
_OPTION_KEYS = [field.name for field in dataclasses.fields(Runtime)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Measure what a distillation costs')
    parser.add_argument('config', help='config file of a distillation')
    parser.add_argument('--size', type=int, default=256, help='side of synthetic images, pixels')
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--data', action='store_true', help="batches of the config's training data")
    parser.add_argument('--rounds', type=int, default=20, help='measured rounds')
    parser.add_argument('--warmup', type=int, default=3, help='rounds that do not count')
    parser.add_argument('--threads', type=int, help='CPU threads (default: those of torch)')
    parser.add_argument(
        '--random-teacher', action='store_true', help='need no weight file: time is the same'
    )
    parser.add_argument(
        '--teacher-options',
        nargs='*',
        metavar='OPTIONS',
        help='also ways to run the teacher cheaper; alone: ' + '; '.join(list(_OPTIONS)[1:]),
    )
    parser.add_argument('--out', type=Path, metavar='DIR', help='write JSON and rewrite summary.md')
    add_shared_arguments(parser)
    return parser.parse_args(argv)


def check(args: argparse.Namespace, cfg: Config) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: One line naming the argument and the fix.
    """
    if cfg.model.type != 'mmkd.Distiller':
        raise ValueError(f'{args.config}: its model is no mmkd.Distiller; name a distillation')
    if args.rounds < 1 or args.warmup < 0:
        raise ValueError(f'--rounds {args.rounds} must be >= 1, --warmup {args.warmup} >= 0')
    if unknown := [title for title in args.teacher_options or () if title not in _OPTIONS]:
        raise ValueError(
            f'--teacher-options {unknown[0]!r} is none of {"; ".join(_OPTIONS)}: name one of them'
        )


class Step:
    """A training step of one model on one batch after another."""

    def __init__(self, model: torch.nn.Module, cfg: Config, batches: list) -> None:
        self.model = revert_sync_batchnorm(model).to(get_device()).train()
        self.optimizer = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.batches = batches
        self.count = 0

    def __call__(self) -> None:
        data = self.batches[self.count % len(self.batches)]
        self.count += 1
        self.model.train_step(data, self.optimizer)


def synchronise() -> None:
    """Wait for the device, so that a clock sees the work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def medians(parts: dict[str, Callable], args: argparse.Namespace) -> dict[str, float]:
    """Run all parts once a round; median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for index in track(range(args.warmup + args.rounds), description='rounds', transient=True):
        for name, part in parts.items():
            synchronise()
            begin = time.perf_counter()
            part()
            synchronise()
            if index >= args.warmup:
                times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(step: Callable) -> float:
    """MiB allocated at the worst moment of a step, above what was allocated before it."""
    gc.collect()
    if torch.cuda.is_available():
        synchronise()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']
    total = worst = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        worst = max(worst, total)
    return worst / 2**20


@contextlib.contextmanager
def without(part) -> Iterator[None]:
    """A step in which one term or exit computes nothing."""
    weight, part.weight = part.weight, 0.0
    try:
        yield
    finally:
        part.weight = weight


def pad_to(cfg: Config, side: int) -> None:
    """Batches of ``side`` x ``side`` where mmseg would pad them to the crops of its training."""
    for holder in (cfg, cfg.model, cfg.model.student):
        preprocessor = holder.get('data_preprocessor')
        if preprocessor and preprocessor.get('size'):
            preprocessor.size = (side, side)


def make_batches(cfg: Config, args: argparse.Namespace, student: torch.nn.Module) -> list[dict]:
    """Raw batches as a data loader gives them."""
    if args.data:
        loader_cfg = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
        loader = iter(Runner.build_dataloader(loader_cfg, seed=0))
        return [next(loader) for _ in range(8)]
    family = find_family(student)
    family.dry_run_side = args.size
    _, pair = family.dummy_batch(student, 'cpu')
    images = torch.randint(0, 256, (args.batch_size, 3, args.size, args.size), dtype=torch.uint8)
    samples = [copy.deepcopy(pair[i % 2]) for i in range(args.batch_size)]
    return [dict(inputs=list(images), data_samples=samples)]


def measure_options(cfg: Config, distilled: torch.nn.Module, batch: tuple, args) -> list[dict]:
    """Time and largest output difference of each way to run the first teacher."""
    name, (taps, predictions) = next(iter(distilled.distillation.needs().items()))
    teacher_cfg = cfg.model.teacher if name is None else cfg.model.teacher[name]
    plain_cfg = {key: teacher_cfg[key] for key in teacher_cfg if key not in _OPTION_KEYS}
    teachers: dict[str, Teacher] = {}
    weights = None
    for title in dict.fromkeys(['nothing', *(args.teacher_options or _OPTIONS)]):
        cheaper = dict(plain_cfg, **_OPTIONS[title])
        teacher = Teacher.build(name, cheaper, distilled.data_preprocessor)
        weights = weights or copy.deepcopy(teacher.model.state_dict())
        teacher.model.load_state_dict(weights)  # random ones must be the same
        teacher.rehearse(*batch, taps)
        teachers[title] = teacher
    parts = {
        title: functools.partial(teacher.run, *batch, taps, predictions)
        for title, teacher in teachers.items()
    }
    times = medians(parts, args)
    return [
        dict(option=title, ms=times[title], difference=teacher.difference)
        for title, teacher in teachers.items()
    ]


def measure(cfg: Config, args: argparse.Namespace) -> dict:
    """Measure one config.

    Returns:
        dict: what ``summary.md`` shows, as plain numbers; milliseconds and MiB.
    """
    torch.manual_seed(0)
    if args.random_teacher:
        teachers = cfg.model.teacher if isinstance(cfg.model.teacher, dict) else {}
        for teacher in [teachers] if 'config' in teachers else teachers.values():
            if 'checkpoint' in teacher:
                teacher.checkpoint = None
    if not args.data:
        pad_to(cfg, args.size)
    student_cfg = copy.deepcopy(dict(cfg.model.student))  # mmseg writes into it
    student_cfg.setdefault('_scope_', cfg.get('default_scope'))
    student = build_in_scope(student_cfg, 'student')
    batches = make_batches(cfg, args, student)
    distilled = MODELS.build(cfg.model)
    distillation = distilled.distillation
    distillation.start(resolve_model(cfg).classes)
    distillation.iteration = 10**6  # past every warm-up
    alone, taught = (Step(model, cfg, batches) for model in (student, distilled))
    processed = distilled.data_preprocessor(batches[0], training=True)
    batch = processed['inputs'], processed['data_samples']

    def teach() -> None:
        for name, needs in distillation.needs().items():
            distillation.teachers[name].run(*batch, *needs)

    def step_without(part) -> None:
        with without(part):
            taught()

    parts = dict(student=alone, teacher=teach, distilled=taught)
    active = distillation.active()
    parts |= {f'without {p.name}': functools.partial(step_without, p) for p in active}
    times = medians(parts, args)
    teacher_bytes = sum(
        x.numel() * x.element_size()
        for teacher in distillation.teachers.values()
        if not teacher.is_student
        for x in teacher.model.state_dict().values()
    )
    commit, dirty = describe_commit()
    record = dict(
        config=Path(args.config).stem,
        options={key: str(value) for key, value in (args.cfg_options or {}).items()},
        data='training data' if args.data else f'{args.batch_size} x 3 x {args.size} x {args.size}',
        rounds=args.rounds,
        ms={name: times[name] for name in ('student', 'teacher', 'distilled')},
        to_both=times['distilled'] / (times['student'] + times['teacher']),
        to_student=times['distilled'] / times['student'],
        parts={p.name: 1 - times[f'without {p.name}'] / times['distilled'] for p in active},
        peak_mib=dict(student=peak_memory(alone), distilled=peak_memory(taught)),
        teacher_mib=teacher_bytes / 2**20,
        commit=commit,
        dirty=dirty,
        machine=dict(describe_machine(), threads=torch.get_num_threads()),
    )
    if args.teacher_options is not None:
        record['teacher_options'] = measure_options(cfg, distilled, batch, args)
    return record


def main(args: argparse.Namespace) -> dict:
    """Measure, print, and write if asked.

    Raises:
        ValueError: Wrong arguments, or a config that cannot be measured.
    """
    cfg = load_config(args)
    check(args, cfg)
    if args.threads:
        torch.set_num_threads(args.threads)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    record = measure(cfg, args)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f'{record["config"]}.json').write_text(json.dumps(record, indent=1) + '\n')
        write_summary(args.out)
    print(to_markdown(record))
    return record


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
