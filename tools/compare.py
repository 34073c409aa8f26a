"""Train several configs over seeds, shares of the data and schedules, and compare them.

Examples:
    ``python tools/compare.py ALONE.py DISTILLED.py --seeds 0 1 2 3 4 --out results --jobs 2``
    ``python tools/compare.py *.py --fractions 0.1 0.25 0.5 1 --schedules 1 2 4 --out study``
    ``python tools/compare.py *.py --out study --executor slurm --jobs 16 --slurm timeout_min=240``

``plan.csv`` lists all runs first. Each leaves one JSON in ``--out`` and is never repeated; a killed
comparison goes on where it was, by the same command. The report (``report.html``, ``summary.md``,
``summary.csv``, ``runs.csv``, ``scores.png``, ``curves.png``) is rewritten after each run.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from _common import run_tool
from _compare_executor import run_here, run_on_slurm
from _compare_pictures import draw_samples
from _compare_plan import Plan
from _compare_report import write_report
from _compare_run import Run
from _provenance import resolve


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Compare configs over seeds')
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='the first is the baseline')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument('--out', required=True, type=Path, help='folder of results and report')
    parser.add_argument('--run-dir', type=Path, help='folder of the work dirs (default: OUT/runs)')
    parser.add_argument(
        '--fractions', nargs='+', type=float, default=[1], metavar='F',
        help='shares of the training set: stratified, nested, fixed by the seed',
    )  # fmt: skip
    parser.add_argument(
        '--schedules', nargs='+', type=float, default=[1], metavar='X',
        help="multiples of each config's own schedule",
    )  # fmt: skip
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument('--executor', choices=['local', 'slurm'], default='local')
    parser.add_argument(
        '--slurm', nargs='+', default=[], metavar='KEY=VALUE',
        help="submitit's parameters, e.g. timeout_min=240 slurm_partition=gpu gpus_per_node=1",
    )  # fmt: skip
    parser.add_argument('--metric', metavar='KEY', help='e.g. coco/bbox_mAP_50 (default: the main)')
    parser.add_argument('--baseline', metavar='CONFIG', help='compare to another than the first')
    parser.add_argument(
        '--reference', metavar='CONFIG',
        help='over which the gain is shown: vanilla KD (default: the config called kd_...)',
    )  # fmt: skip
    parser.add_argument(
        '--split', choices=['test', 'val'], default='test', help='scored once, at the end'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every config'
    )
    parser.add_argument(
        '--grad-share', nargs='+', type=read_share, default=[None], metavar='SHARE',
        help='hold each term and exit at this share of the gradient at its tap, e.g. 0.1; '
        '`published 0.1`: once at the weights of the config, once at the share',
    )  # fmt: skip
    parser.add_argument(
        '--pictures',
        type=int,
        default=2,
        metavar='N',
        help='images to draw predictions on; 0: none',
    )
    parser.add_argument('--rerun', action='store_true', help='repeat runs whose config changed')
    parser.add_argument('--report-only', action='store_true', help='train nothing')
    parser.add_argument('--debug', action='store_true', help='traceback even for wrong input')
    return parser.parse_args(argv)


def read_share(text: str) -> float | None:
    """Read a share; ``published`` means the config's own weights."""
    return None if text == 'published' else float(text)


def check_args(args: argparse.Namespace) -> None:
    """Refuse arguments that name no comparison.

    Raises:
        ValueError: One line naming the argument and the fix.
    """
    if not args.configs and not args.report_only:
        raise ValueError('no CONFIG given: name at least one, or use --report-only')
    stems = [Path(config).stem for config in args.configs]
    for config, stem in zip(args.configs, stems):
        if not Path(config).is_file() and not args.report_only:
            raise ValueError(f'no config file {config!r}: give the path of an existing .py file')
        if stems.count(stem) > 1:
            raise ValueError(
                f'two configs are called {stem!r}, as their results would be: rename one'
            )
    if args.baseline and stems and Path(args.baseline).stem not in stems:
        raise ValueError(f'--baseline {args.baseline} is none of the configs: {", ".join(stems)}')
    for share in args.grad_share:
        if share is not None and not 0 < share < 1:
            raise ValueError(f'--grad-share must lie between 0 and 1, got {share}')
    for option, values, limit in (
        ('--fractions', args.fractions, 1),
        ('--schedules', args.schedules, float('inf')),
    ):
        for value in values:
            if not 0 < value <= limit:
                at_most = ' and at most at 1' if limit == 1 else ''
                raise ValueError(f'{option} must lie above 0{at_most}, got {value}')
    if wrong := [option for option in args.slurm if '=' not in option]:
        raise ValueError(f'--slurm {wrong[0]!r} is no KEY=VALUE: e.g. timeout_min=240')
    if args.jobs < 1:
        raise ValueError(f'--jobs must be at least 1, got {args.jobs}')


def list_runs(args: argparse.Namespace) -> list[Run]:
    """List all runs: seed by seed, within a seed by schedule and share of the data."""
    folder = args.run_dir or args.out / 'runs'
    arms = []
    for share in dict.fromkeys(args.grad_share):
        for config in map(Path, args.configs):
            options = args.cfg_options if share is None else held_shares(config, share, args)
            # one that has nothing to weigh is the same at any share
            held = None if options == args.cfg_options else share
            if (config, held) not in [arm[:2] for arm in arms]:
                arms.append((config, held, options))
    return [
        Run(
            config,
            seed,
            options,
            args.out,
            folder,
            args.split,
            args.metric,
            fraction,
            schedule,
            share,
        )
        for seed in dict.fromkeys(args.seeds)
        for schedule in dict.fromkeys(args.schedules)
        for fraction in dict.fromkeys(args.fractions)
        for config, share, options in arms
    ]


def held_shares(config: Path, share: float, args: argparse.Namespace) -> list[str]:
    """Give ``--cfg-options`` with each weight of a distillation replaced by a held share."""
    model = resolve(config, args.cfg_options).model
    options = list(args.cfg_options)
    for group in ('terms', 'exits'):
        for name, part in (model.get(group) or {}).items():
            weight = part.get('weight', 1.0) if isinstance(part, dict) else 0
            if not weight:
                continue
            key = f'model.{group}.{name}.weight'
            held = dict(type='GradientShare', share=share)
            if 'weight' in part:
                held['_delete_'] = True
            if isinstance(weight, int | float):
                held['start'] = weight
            # an option that sets the weight has become the start
            options = [option for option in options if option.partition('=')[0] != key]
            options += [f'{key}.{k}={v}' for k, v in held.items()]
    return options


def settle_stale(runs: list[Run], rerun: bool) -> None:
    """Delete, if allowed, what runs of another config have left under the same names.

    Raises:
        ValueError: It is not allowed; names what to delete.
    """
    stale = {run: place for run in runs if (place := run.stale())}
    if stale and not rerun:
        places = ' '.join(map(str, stale.values()))
        raise ValueError(
            f'left by another config, teacher file or split: {places}: '
            'delete them, or let --rerun do it and train again'
        )
    for run in stale:
        run.discard()


def train_all(plan: Plan, args: argparse.Namespace, report: Callable[[], object]) -> list[str]:
    """Train what is not finished; return the names of the runs that failed."""
    pending = plan.pending
    if args.executor == 'slurm':
        options = dict(option.split('=', 1) for option in args.slurm)
        options = {k: int(v) if v.lstrip('-').isdigit() else v for k, v in options.items()}
        outcomes = run_on_slurm(pending, args.jobs, args.out / 'slurm', options)
    else:
        outcomes = run_here(pending, args.jobs)
    failed: list[str] = []
    for run, outcome in outcomes:
        if isinstance(outcome, Exception):  # whatever ended one run, the others go on
            failed.append(run.name)
            plan.fail(run)
            text = f' FAILED: {type(outcome).__name__}: {outcome}'
        else:
            plan.finish(run, outcome)
            text = f': {outcome["metric"]} {outcome["score"]:.2f}, {outcome["minutes"]:.1f} min'
            text += f'; {plan.outlook()}' if plan.pending else ''
        count = f'[{len(plan.runs) - len(plan.pending)}/{len(plan.runs)}]'
        print(f'{count} {time.strftime("%H:%M")} {run.name}{text}', flush=True)
        plan.write(args.out)
        if not isinstance(outcome, Exception):
            report()
    return failed


def relative_command(argv: list[str]) -> str:
    """Write the command without this machine's paths."""
    here = f'{Path.cwd()}{os.sep}'
    words = (word.replace(here, '') for word in argv if word != '--report-only')
    return shlex.join(['tools/compare.py', *words])


def main(args: argparse.Namespace) -> None:
    """Train what is missing and write the report.

    Raises:
        ValueError: Wrong arguments, or results that do not belong to these configs.
        SystemExit: Code 1 where a run failed.
    """
    check_args(args)
    args.out.mkdir(parents=True, exist_ok=True)
    stems = [Path(config).stem for config in args.configs]
    baseline = Path(args.baseline).stem if args.baseline else None
    reference = Path(args.reference).name.removesuffix('.py') if args.reference else None
    command = relative_command(sys.argv[1:])

    def report() -> str | None:
        return write_report(args.out, stems, baseline, args.metric, command, reference)

    failed: list[str] = []
    if not args.report_only:
        runs = list_runs(args)
        settle_stale(runs, args.rerun)
        done = [json.loads(run.result.read_text()) for run in runs if run.result.is_file()]
        plan = Plan(runs, args.jobs, done)
        plan.write(args.out)
        plan.show()
        # A terminated comparison takes its training processes along.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        failed = train_all(plan, args, report)
        if args.pictures:
            draw_samples(runs, baseline or stems[0], args.pictures, args.out)
    text = report()
    print(f'\n{text}' if text else f'No results in {args.out}.')
    if failed:
        print(f'failed: {", ".join(failed)}', file=sys.stderr)
        raise SystemExit(1)


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
