"""The report of a comparison: paired statistics, tables and plots from the result files."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
from _compare_run import in_points
from matplotlib.figure import Figure
from scipy import stats

Records = dict[str, dict[int, dict]]


def read_records(out: Path, stems: list[str]) -> Records:
    """Read the result files as ``{config: {seed: record}}``; no stems means all of them.

    Raises:
        ValueError: Two results of one config come from different configs, teachers or splits.
    """
    records: Records = {stem: {} for stem in stems}
    for path in sorted(out.glob('*_seed*.json')):
        record = json.loads(path.read_text())
        if not stems or record['config'] in stems:
            records.setdefault(record['config'], {})[record['seed']] = record
    for stem, runs in records.items():
        for key in ('config_hash', 'teacher_sha256', 'split'):
            if len({json.dumps(record[key], sort_keys=True) for record in runs.values()}) > 1:
                raise ValueError(
                    f'the results {stem}_seed*.json in {out} differ in their {key}: '
                    'delete the outdated ones'
                )
    return {stem: runs for stem, runs in records.items() if runs}


def score(record: dict, metric: str | None) -> float:
    """Give a run's score in points, by another metric than its own if one is named.

    Raises:
        ValueError: The run was not measured by that metric.
    """
    if metric is None:
        return record['score']
    if metric not in record['metrics']:
        raise ValueError(
            f'{record["config"]} seed {record["seed"]} has no metric {metric!r}: '
            f'choose from {", ".join(record["metrics"])}'
        )
    return in_points(metric, record['metrics'][metric])


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and standard error (sample standard deviation / sqrt(n)); NaN error for one value."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(error)


def paired_difference(scores: dict[int, float], baseline: dict[int, float]) -> dict:
    """Compare two configs over the seeds that both have.

    Args:
        scores (dict[int, float]): Points by seed.
        baseline (dict[int, float]): Points by seed.

    Returns:
        dict: ``pairs``, ``diff``, ``diff_se``, the 95 % t-interval ``low``, ``high``, and
        ``clear``: is the difference more than two standard errors?
        NaN and None where pairs are too few.
    """
    diffs = [scores[seed] - baseline[seed] for seed in sorted(scores) if seed in baseline]
    if not diffs:
        nothing = dict.fromkeys(('diff', 'diff_se', 'low', 'high'), math.nan)
        return dict(pairs=0, **nothing, clear=None)
    mean, error = mean_and_error(diffs)
    if len(diffs) == 1:
        return dict(pairs=1, diff=mean, diff_se=error, low=math.nan, high=math.nan, clear=None)
    half = float(stats.t.ppf(0.975, len(diffs) - 1)) * error
    clear = abs(mean) > 2 * error
    return dict(
        pairs=len(diffs), diff=mean, diff_se=error, low=mean - half, high=mean + half, clear=clear
    )


def summarise(records: Records, baseline: str, metric: str | None) -> pd.DataFrame:
    """One row per config: n, mean, se, the paired difference to the baseline, minutes."""
    points = {c: {s: score(r, metric) for s, r in runs.items()} for c, runs in records.items()}
    rows = []
    for config, scores in points.items():
        mean, error = mean_and_error(list(scores.values()))
        row = dict(config=config, n=len(scores), mean=mean, se=error)
        if config != baseline:
            row |= paired_difference(scores, points.get(baseline, {}))
        row['minutes'] = float(np.mean([r['minutes'] for r in records[config].values()]))
        rows.append(row)
    columns = 'config n mean se pairs diff diff_se low high clear minutes'
    return pd.DataFrame(rows, columns=columns.split())


def _pairs(records: Records, metric: str | None) -> list[str]:
    """Table of every config's paired difference to every other one."""
    points = {c: {s: score(r, metric) for s, r in runs.items()} for c, runs in records.items()}
    numbers = range(1, len(points) + 1)
    lines = [
        '',
        'Row minus column, paired by seed, and its standard error; bold: more than two of them.',
        '',
        f'| | {" | ".join(map(str, numbers))} |',
        '|---' * (len(points) + 1) + '|',
    ]
    for number, (config, scores) in zip(numbers, points.items()):
        cells = []
        for other, others in points.items():
            found = paired_difference(scores, others)
            if other == config or not found['pairs']:
                cells.append('-')
                continue
            text = f'{found["diff"]:+.2f} ± {_number(found["diff_se"])}'
            cells.append(f'**{text}**' if found['clear'] else text)
        lines.append(f'| {number} {config} | {" | ".join(cells)} |')
    return lines


def _unique(values) -> str:
    return ', '.join(sorted({str(value) for value in values})) or 'none'


def _metrics(records: Records) -> str:
    return _unique(record['metric'] for runs in records.values() for record in runs.values())


def _machine(machine: dict) -> str:
    parts = [machine.get('gpu') or machine['cpu'], f'{machine["threads"]} thread(s) a run']
    return ', '.join([*parts, f'torch {machine["torch"]}'])


def _teacher(digest: str | dict | None) -> str:
    if isinstance(digest, dict):
        return ', '.join(f'{name} sha256 {value[:12]}' for name, value in digest.items())
    return f'sha256 {digest[:12]}' if digest else 'none'


def to_markdown(
    summary: pd.DataFrame, records: Records, baseline: str, metric: str | None, command: str
) -> str:
    """Write the table with what a reader needs to repeat it."""
    runs = [record for config in records.values() for record in config.values()]
    commits = [f'{r["commit"]}{" with local changes" if r["dirty"] else ""}' for r in runs]
    seeds = sorted({record['seed'] for record in runs})
    lines = [
        f'# {metric or _metrics(records)} in points, '
        f'{_unique(r["split"] for r in runs)} split, final checkpoint',
        '',
        f'* machine: {_unique(_machine(r["machine"]) for r in runs)}',
        f'* commit: {_unique(commits)}',
        f'* seeds: {", ".join(map(str, seeds))}',
        f'* teacher: {_unique(_teacher(r["teacher_sha256"]) for r in runs if r["teacher_sha256"])}',
        f'* command: `{command}`',
        f'* difference: to {baseline}, paired by seed; the interval is the 95 % t-interval',
        '',
        '| config | n | mean | standard error | difference | its standard error | 95 % interval '
        '| more than 2 standard errors | minutes |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for row in summary.itertuples():
        interval = '-' if pd.isna(row.low) else f'[{row.low:+.2f}, {row.high:+.2f}]'
        clear = '-' if pd.isna(row.clear) else 'yes' if row.clear else 'no'
        cells = [row.config, str(row.n), _number(row.mean), _number(row.se), _number(row.diff, '+')]
        cells += [_number(row.diff_se), interval, clear, f'{row.minutes:.1f}']
        lines.append(f'| {" | ".join(cells)} |')
    if len(records) > 2:
        lines += _pairs(records, metric)
    return '\n'.join(lines) + '\n'


def _number(value: float, sign: str = '') -> str:
    return '-' if pd.isna(value) else f'{value:{sign}.2f}'


def plot_scores(records: Records, summary: pd.DataFrame, metric: str | None) -> Figure:
    """Draw each run as a point and each config's mean with its standard error."""
    figure = Figure(figsize=(7, 1.2 + 0.5 * len(records)), layout='constrained')
    axes = figure.subplots()
    for row, (config, runs) in enumerate(records.items()):
        values = [score(record, metric) for record in runs.values()]
        axes.plot(values, [row + 0.18] * len(values), 'o', color='0.7', markersize=4)
        mean = summary.set_index('config').loc[config]
        axes.errorbar(mean['mean'], row, xerr=np.nan_to_num(mean['se']), fmt='o', capsize=4)
    axes.set_yticks(range(len(records)), list(records))
    axes.invert_yaxis()
    axes.set_xlabel(f'{metric or _metrics(records)}, points')
    axes.set_title('mean and standard error; grey: single runs', fontsize=9)
    axes.grid(axis='x', alpha=0.3)
    return figure


def plot_curves(records: Records, metric: str | None) -> Figure:
    """Draw each config's validation curve, mean and standard error over the seeds."""
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    drawn = False
    for config, runs in records.items():
        curves = [r['curve'] for r in runs.values() if metric in (None, r['metric'])]
        by_iteration: dict[int, list[float]] = {}
        for iteration, value in (point for curve in curves for point in curve):
            by_iteration.setdefault(iteration, []).append(value)
        # A mean over fewer runs would jump for no other reason than that.
        x = [i for i in sorted(by_iteration) if len(by_iteration[i]) == len(curves)]
        if not x:
            continue
        means, errors = np.array([mean_and_error(by_iteration[i]) for i in x]).T
        errors = np.nan_to_num(errors)
        (line,) = axes.plot(x, means, marker='.', label=f'{config} (n={len(curves)})')
        axes.fill_between(x, means - errors, means + errors, color=line.get_color(), alpha=0.2)
        drawn = True
    axes.set_xlabel('iteration')
    axes.set_ylabel('validation score, points')
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize=8)
    return figure


def write_report(
    out: Path, stems: list[str], baseline: str | None, metric: str | None, command: str
) -> str | None:
    """Write tables and plots of all results in ``out``; return the Markdown, if there is any.

    Raises:
        ValueError: The results do not belong together, or lack the metric.
    """
    records = read_records(out, stems)
    if not records:
        return None
    baseline = baseline or (stems or list(records))[0]
    summary = summarise(records, baseline, metric)
    text = to_markdown(summary, records, baseline, metric, command)
    (out / 'summary.md').write_text(text)
    summary.to_csv(out / 'summary.csv', index=False, float_format='%.4f')
    rows = [
        dict(config=config, seed=seed, score=score(record, metric))
        | {key: record[key] for key in ('minutes', 'commit', 'finished')}
        | record['metrics']
        for config, runs in records.items()
        for seed, record in sorted(runs.items())
    ]
    pd.DataFrame(rows).to_csv(out / 'runs.csv', index=False, float_format='%.4f')
    plot_scores(records, summary, metric).savefig(out / 'scores.png', dpi=120)
    plot_curves(records, metric).savefig(out / 'curves.png', dpi=120)
    return text
