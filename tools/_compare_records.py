"""The runs of a comparison, read from their result files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from _compare_run import in_points
from _compare_statistics import CELL, mean_and_error

_COLUMNS = ['arm', 'config', 'grad_share', *CELL, 'seed', 'metric', 'points', 'per_image', 'record']


def read_records(out: Path, stems: list[str], metric: str | None = None) -> pd.DataFrame:
    """Read the result files; no stems means all of them.

    Returns:
        pd.DataFrame: A row for each run: its ``arm`` (``CONFIG``, or ``CONFIG @0.1`` where terms
        and exits are held at that share of the gradient), ``config``, ``grad_share``,
        ``fraction`` of the training set, ``schedule`` (multiple of the config's own), ``seed``,
        ``metric``, ``points`` by it, ``per_image`` (path of its per-image statistics, or None)
        and the ``record`` itself. Configs in the order of ``stems``, else of their files.

    Raises:
        ValueError: Two results of one arm and cell come from different configs, teachers or
            splits, two are of the same seed, or one lacks the metric.
    """
    rows = []
    for path in sorted(out.glob('*_seed*.json')):
        record = json.loads(path.read_text())
        if stems and record['config'] not in stems:
            continue
        share, images = record.get('grad_share'), path.with_suffix('.npz')
        rows.append(
            dict(
                arm=record['config'] + ('' if share is None else f' @{share:g}'),
                config=record['config'],
                grad_share=share,
                fraction=float(record.get('fraction', 1)),
                schedule=float(record.get('schedule', 1)),
                seed=record['seed'],
                metric=metric or record['metric'],
                points=score(record, metric),
                per_image=images if images.is_file() else None,
                record=record,
            )
        )
    if stems:
        rows.sort(key=lambda row: stems.index(row['config']))
    runs = pd.DataFrame(rows, columns=_COLUMNS)
    for (arm, *_), same in runs.groupby(['arm', *CELL], sort=False):
        for key in ('config_hash', 'teacher_sha256', 'split'):
            if len({json.dumps(record[key], sort_keys=True) for record in same['record']}) > 1:
                raise ValueError(
                    f'the results of {arm} in {out} differ in their {key}: delete the outdated ones'
                )
        if same['seed'].duplicated().any():
            raise ValueError(f'two results of {arm} in {out} are of one seed: delete one')
    return runs


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


def find_arm(runs: pd.DataFrame, name: str, known: list[str]) -> str:
    """Give the arm of this name; of a config with several, that at its published weights.

    Raises:
        ValueError: There is no such config.
    """
    if name in runs['arm'].values:
        return name
    config = name.partition(' @')[0]
    if config not in known:
        raise ValueError(f'no arm {name!r} to compare to: choose from {", ".join(known)}')
    arms = runs.loc[runs['config'] == name, 'arm']
    return name if arms.empty else arms.iloc[0]


def vanilla(runs: pd.DataFrame, baseline: str) -> str:
    """Give the arm of vanilla distillation: the only config in ``kd_``, or else the baseline."""
    configs = [config for config in runs['config'].unique() if config.startswith('kd_')]
    return find_arm(runs, configs[0], configs) if len(configs) == 1 else baseline


def unique(values) -> str:
    return ', '.join(sorted({str(value) for value in values})) or 'none'


def _machine(machine: dict) -> str:
    parts = [machine.get('gpu') or machine['cpu'], f'{machine["threads"]} thread(s) a run']
    return ', '.join([*parts, f'torch {machine["torch"]}'])


def _teacher(digest: str | dict | None) -> str:
    if isinstance(digest, dict):
        return ', '.join(f'{name} sha256 {value[:12]}' for name, value in digest.items())
    return f'sha256 {digest[:12]}' if digest else 'none'


def provenance(runs: pd.DataFrame) -> dict[str, str]:
    """Say what a reader needs to know to repeat the comparison."""
    records = runs['record'].tolist()
    commits = [f'{r["commit"]}{" with local changes" if r["dirty"] else ""}' for r in records]
    teachers = [_teacher(r['teacher_sha256']) for r in records if r['teacher_sha256']]
    return dict(
        metric=unique(runs['metric']),
        split=unique(record['split'] for record in records),
        machine=unique(_machine(record['machine']) for record in records),
        commit=unique(commits),
        seeds=', '.join(map(str, sorted(runs['seed'].unique()))),
        teacher=unique(teachers),
    )


def mean_curve(runs: pd.DataFrame) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Give an arm's validations: iterations, means and standard errors, where all runs have one."""
    curves = [r['curve'] for r, m in zip(runs['record'], runs['metric']) if r['metric'] == m]
    by_iteration: dict[int, list[float]] = {}
    for iteration, value in (point for curve in curves for point in curve):
        by_iteration.setdefault(iteration, []).append(value)
    # A mean over fewer runs would jump for no other reason than that.
    x = [i for i in sorted(by_iteration) if len(by_iteration[i]) == len(curves)]
    means, errors = np.array([mean_and_error(by_iteration[i]) for i in x]).reshape(-1, 2).T
    return x, means, np.nan_to_num(errors)
