"""The report of a comparison: tables and plots from the result files."""

from pathlib import Path

import numpy as np
import pandas as pd
from _compare_html import to_html
from _compare_records import find_arm, mean_curve, provenance, read_records, unique, vanilla
from _compare_statistics import (
    ALPHA,
    CELL,
    FEWEST_SEEDS,
    RESAMPLES,
    mean_and_error,
    over_all_cells,
    paired_difference,
    summarise,
)
from matplotlib.figure import Figure


def _pairs(runs: pd.DataFrame) -> list[str]:
    """Table of every arm's paired difference to every other one."""
    points = {
        arm: each.set_index('seed')['points'] for arm, each in runs.groupby('arm', sort=False)
    }
    numbers = range(1, len(points) + 1)
    lines = [
        '',
        'Row minus column, paired by seed, and its standard error; bold: more than two of them.',
        '',
        f'| | {" | ".join(map(str, numbers))} |',
        '|---' * (len(points) + 1) + '|',
    ]
    for number, (arm, scores) in zip(numbers, points.items()):
        cells = []
        for other, others in points.items():
            found = paired_difference((scores - others).dropna().to_numpy())
            if other == arm or not found['pairs']:
                cells.append('-')
                continue
            text = f'{found["diff"]:+.2f} ± {_number(found["diff_se"])}'
            cells.append(f'**{text}**' if found['clear'] else text)
        lines.append(f'| {number} {arm} | {" | ".join(cells)} |')
    return lines


def _cell(row) -> list[str]:
    return [f'{row.fraction:g}', f'{row.schedule:g}']


def _compared(row: pd.Series, start: str = '') -> list[str]:
    """Difference, standard error, both intervals and verdict of a row of a summary."""
    row = {key: row[start + key] for key in _SHOWN}
    intervals = [
        '-' if pd.isna(low) else f'[{low:+.2f}, {high:+.2f}]'
        for low, high in ((row['low'], row['high']), (row['boot_low'], row['boot_high']))
    ]
    word = row['verdict'] if isinstance(row['verdict'], str) else '-'
    return [_number(row['diff'], '+'), _number(row['diff_se']), *intervals, word]


_SHOWN = ('diff', 'diff_se', 'low', 'high', 'boot_low', 'boot_high', 'verdict')
_HEAD = ['difference', 'its standard error', '95 % interval', 'bootstrap interval', 'verdict']
_GAIN = ['gain', *_HEAD[1:]]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ['', f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    return lines + [f'| {" | ".join(row)} |' for row in rows]


def to_markdown(
    summary: pd.DataFrame,
    total: pd.DataFrame | None,
    runs: pd.DataFrame,
    baseline: str,
    reference: str,
    command: str,
) -> str:
    """Write the tables with what a reader needs to repeat them.

    Args:
        summary (pd.DataFrame): By cell and arm, from ``summarise``.
        total (pd.DataFrame | None): By arm over all cells, where there are several.
        runs (pd.DataFrame): From ``read_records``.
        baseline (str): The arm of the differences.
        reference (str): The arm of the gains.
        command (str): What was run.
    """
    facts = provenance(runs)
    cells = total is not None
    gains = reference != baseline
    lines = [
        f'# {facts["metric"]} in points, {facts["split"]} split, final checkpoint',
        '',
        *(f'* {key}: {facts[key]}' for key in ('machine', 'commit', 'seeds', 'teacher')),
        f'* command: `{command}`',
        f'* difference: to {baseline}, paired by seed; the 95 % interval is the t-interval',
    ]
    if gains:
        lines.append(f'* gain: the same over {reference}')
    lines += [
        f"* verdict: t-test on the paired differences at {100 * ALPHA:g} %, with Holm's correction "
        f'over the arms compared{" in a cell" if cells else ""}; from {FEWEST_SEEDS} seeds on',
    ]
    if summary['boot_low'].notna().any():
        lines.append(f'* bootstrap interval: 95 %, {RESAMPLES} resamples of {_resampled(summary)}')
    head = ['config', *(['data', 'schedule'] if cells else []), 'n', 'mean', 'standard error']
    head += [*_HEAD, *(_GAIN[:1] + _GAIN[3:] if gains else []), 'step cost', 'minutes']
    rows = []
    for row, series in zip(summary.itertuples(), (row for _, row in summary.iterrows())):
        words = [row.arm, *(_cell(row) if cells else []), str(row.n), _number(row.mean)]
        words += [_number(row.se), *_compared(series)]
        if gains:
            gain = _compared(series, 'gain_')
            words += gain[:1] + gain[3:]
        rows.append([*words, _number(row.step_cost), f'{row.minutes:.1f}'])
    if cells:
        lines += ['', '## Over all shares of the data and schedules']
        rest = _GAIN if gains else []
        lines += _table(
            ['config', 'pairs', *_HEAD, *rest],
            [
                [
                    arm,
                    str(row['pairs']),
                    *_compared(row),
                    *(_compared(row, 'gain_') if gains else []),
                ]
                for arm, row in total.iterrows()
            ],
        )
        lines += ['', '## One by one']
    lines += _table(head, rows)
    if len(rows) > 2 and not cells:
        lines += _pairs(runs)
    return '\n'.join(lines) + '\n'


def _resampled(summary: pd.DataFrame) -> str:
    """What the bootstrap is over, and where it could not be over images."""
    kinds = summary.loc[summary['boot_low'].notna(), ['arm', 'resampled']]
    seeds_only = kinds.loc[kinds['resampled'] == 'seeds', 'arm'].unique()
    if not len(seeds_only):
        return 'seeds and images'
    if len(seeds_only) == kinds['arm'].nunique():
        return 'seeds only, as per-image statistics are missing'
    return 'seeds and images; of seeds only, as per-image statistics are missing, for ' + ', '.join(
        seeds_only
    )


def _number(value: float, sign: str = '') -> str:
    return '-' if pd.isna(value) else f'{value:{sign}.2f}'


def plot_scores(runs: pd.DataFrame) -> Figure:
    """Draw each run as a point and each arm's mean with its standard error, by cell."""
    groups = list(runs.groupby(['arm', *CELL], sort=False))
    cells = len(runs.groupby(CELL)) > 1
    figure = Figure(figsize=(7, 1.2 + 0.5 * len(groups)), layout='constrained')
    axes = figure.subplots()
    names = []
    for row, ((arm, *cell), same) in enumerate(groups):
        axes.plot(same['points'], [row + 0.18] * len(same), 'o', color='0.7', markersize=4)
        mean, error = mean_and_error(same['points'])
        axes.errorbar(mean, row, xerr=np.nan_to_num(error), fmt='o', capsize=4)
        names.append(f'{arm}, data {cell[0]:g}, schedule {cell[1]:g}' if cells else arm)
    axes.set_yticks(range(len(groups)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f'{unique(runs["metric"])}, points')
    axes.set_title('mean and standard error; grey: single runs', fontsize=9)
    axes.grid(axis='x', alpha=0.3)
    return figure


def plot_curves(runs: pd.DataFrame) -> Figure:
    """Draw each arm's validation curve in the largest cell."""
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    groups = list(runs.groupby(CELL))
    (fraction, schedule), largest = groups[-1]
    drawn = False
    for arm, same in largest.groupby('arm', sort=False):
        x, means, errors = mean_curve(same)
        if not x:
            continue
        (line,) = axes.plot(x, means, marker='.', label=f'{arm} (n={len(same)})')
        axes.fill_between(x, means - errors, means + errors, color=line.get_color(), alpha=0.2)
        drawn = True
    if len(groups) > 1:
        axes.set_title(f'data {fraction:g}, schedule {schedule:g}', fontsize=9)
    axes.set_xlabel('iteration')
    axes.set_ylabel('validation score, points')
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize=8)
    return figure


def write_report(
    out: Path,
    stems: list[str],
    baseline: str | None,
    metric: str | None,
    command: str,
    reference: str | None = None,
) -> str | None:
    """Write tables, plots and page of all results in ``out``; return the Markdown, if there is any.

    Args:
        out (Path): Folder of the results.
        stems (list[str]): Configs, the first being the baseline; empty for all that are there.
        baseline (str | None): The arm, or config, that is compared to, if not the first.
        metric (str | None): Key of the metric, if not each run's own.
        command (str): What was run.
        reference (str | None): The arm, or config, of vanilla distillation; by default the only
            config that begins with ``kd_``, or else the baseline.

    Raises:
        ValueError: The results do not belong together, or lack the metric, or there is no such
            baseline or reference.
    """
    runs = read_records(out, stems, metric)
    if runs.empty:
        return None
    known = stems or runs['config'].unique().tolist()
    baseline = find_arm(runs, baseline or known[0], known)
    if not stems:
        runs = runs.sort_values('arm', key=lambda arms: arms != baseline, kind='stable')
    reference = find_arm(runs, reference, known) if reference else vanilla(runs, baseline)
    summary = summarise(runs, baseline, reference)
    total = over_all_cells(runs, baseline, reference)
    text = to_markdown(summary, total, runs, baseline, reference, command)
    (out / 'summary.md').write_text(text)
    summary.to_csv(out / 'summary.csv', index=False, float_format='%.4f')
    rows = [
        dict(config=run.config, grad_share=run.grad_share, fraction=run.fraction)
        | dict(schedule=run.schedule, seed=run.seed, score=run.points)
        | {key: run.record.get(key) for key in ('minutes', 'step_seconds', 'commit', 'finished')}
        | run.record['metrics']
        for run in runs.itertuples()
    ]
    pd.DataFrame(rows).to_csv(out / 'runs.csv', index=False, float_format='%.4f')
    plot_scores(runs).savefig(out / 'scores.png', dpi=120)
    plot_curves(runs).savefig(out / 'curves.png', dpi=120)
    page = to_html(summary, total, runs, baseline, reference, command, out / 'pictures')
    (out / 'report.html').write_text(page)
    return text
