"""Train several configs over several seeds and compare them, paired by seed.

Example: ``python tools/compare.py ALONE.py DISTILLED.py --seeds 0 1 2 3 4 --out results --jobs 2``

Each run leaves one JSON in ``--out`` and is never repeated; a killed comparison goes on where it
was. The report (``summary.md``, ``summary.csv``, ``runs.csv``, ``scores.png``, ``curves.png``) is
rewritten after each run.
"""

import argparse
import os
import shlex
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from _common import run_tool
from _compare_report import read_records, write_report
from _compare_run import Run
from _provenance import resolve


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Compare configs over seeds')
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='the first is the baseline')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument('--out', required=True, type=Path, help='folder of results and report')
    parser.add_argument('--run-dir', type=Path, help='folder of the work dirs (default: OUT/runs)')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument('--metric', metavar='KEY', help='e.g. coco/bbox_mAP_50 (default: the main)')
    parser.add_argument('--baseline', metavar='CONFIG', help='compare to another than the first')
    parser.add_argument(
        '--split', choices=['test', 'val'], default='test', help='scored once, at the end'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every config'
    )
    parser.add_argument(
        '--grad-share', type=float, metavar='SHARE',
        help='hold each term and exit at this share of the gradient at its tap, e.g. 0.1',
    )  # fmt: skip
    parser.add_argument('--rerun', action='store_true', help='repeat runs whose config changed')
    parser.add_argument('--report-only', action='store_true', help='train nothing')
    parser.add_argument('--debug', action='store_true', help='traceback even for wrong input')
    return parser.parse_args(argv)


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
    if args.grad_share is not None and not 0 < args.grad_share < 1:
        raise ValueError(f'--grad-share must lie between 0 and 1, got {args.grad_share}')
    if args.jobs < 1:
        raise ValueError(f'--jobs must be at least 1, got {args.jobs}')


def plan(args: argparse.Namespace) -> list[Run]:
    """List all runs, seed by seed over all configs."""
    folder = args.run_dir or args.out / 'runs'
    return [
        Run(
            config,
            seed,
            held_shares(config, args) if args.grad_share else args.cfg_options,
            args.out,
            folder / config.stem / f'seed{seed}',
            args.split,
            args.metric,
        )
        for seed in dict.fromkeys(args.seeds)
        for config in map(Path, args.configs)
    ]


def held_shares(config: Path, args: argparse.Namespace) -> list[str]:
    """Give ``--cfg-options`` with each weight of a distillation replaced by ``--grad-share``."""
    model = resolve(config, args.cfg_options).model
    options = list(args.cfg_options)
    for group in ('terms', 'exits'):
        for name, part in (model.get(group) or {}).items():
            weight = part.get('weight', 1.0) if isinstance(part, dict) else 0
            if not weight:
                continue
            key = f'model.{group}.{name}.weight'
            held = dict(type='GradientShare', share=args.grad_share)
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


def remaining_minutes(pending: list[Run], finished: dict[str, list[float]], jobs: int) -> float:
    """Estimate from the mean minutes of a config's finished runs, or else of all of them."""
    known = [minutes for each in finished.values() for minutes in each]
    total = 0.0
    for run in pending:
        same = finished.get(run.config.stem) or known
        total += sum(same) / len(same)
    return total / min(jobs, max(len(pending), 1))


def train_all(runs: list[Run], args: argparse.Namespace, report) -> list[str]:
    """Train what is not finished; return the names of the runs that failed."""
    pending = [run for run in runs if not run.result.is_file()]
    print(f'{len(runs)} runs, {len(runs) - len(pending)} of them finished before.', flush=True)
    minutes: dict[str, list[float]] = {}
    for stem, records in read_records(args.out, [Path(c).stem for c in args.configs]).items():
        minutes[stem] = [record['minutes'] for record in records.values()]
    failed: list[str] = []
    pool = ThreadPoolExecutor(args.jobs)
    futures = {pool.submit(run): run for run in pending}
    waiting = list(pending)
    try:
        for future in as_completed(futures):
            run = futures[future]
            waiting.remove(run)
            count = f'[{len(runs) - len(waiting)}/{len(runs)}] {time.strftime("%H:%M")} {run.name}'
            try:
                record = future.result()
            except Exception as error:  # whatever ended one run, the others go on
                failed.append(run.name)
                print(f'{count} FAILED: {type(error).__name__}: {error}', flush=True)
                continue
            minutes.setdefault(run.config.stem, []).append(record['minutes'])
            left = remaining_minutes(waiting, minutes, args.jobs)
            print(
                f'{count}: {record["metric"]} {record["score"]:.2f}, '
                f'{record["minutes"]:.1f} min; about {left:.0f} min left',
                flush=True,
            )
            report()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for run in waiting:
            if run.process is not None and run.process.poll() is None:
                run.process.terminate()
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
    command = relative_command(sys.argv[1:])

    def report() -> str | None:
        return write_report(args.out, stems, baseline, args.metric, command)

    failed: list[str] = []
    if not args.report_only:
        runs = plan(args)
        settle_stale(runs, args.rerun)
        # A terminated comparison takes its training processes along.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        failed = train_all(runs, args, report)
    text = report()
    print(f'\n{text}' if text else f'No results in {args.out}.')
    if failed:
        print(f'failed: {", ".join(failed)}', file=sys.stderr)
        raise SystemExit(1)


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
