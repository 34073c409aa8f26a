"""The statistics of a comparison: paired by seed, tested with Holm's correction, bootstrapped."""

import functools
import math
from pathlib import Path

import numpy as np
import pandas as pd
from _per_image import image_names, rescore
from scipy import stats

ALPHA = 0.05
FEWEST_SEEDS = 3  # below, nothing is concluded
RESAMPLES = 2000
CELL = ['fraction', 'schedule']
_PAIR = [*CELL, 'seed']
_KEPT_FILES = 512  # a long comparison rewrites its report after each run


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and standard error (sample standard deviation / sqrt(n)); NaN error for one value."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(error)


def paired_difference(diffs: list[float]) -> dict:
    """Say what differences paired by seed show.

    Args:
        diffs (list[float]): Points, a difference for each seed that both have.

    Returns:
        dict: ``pairs``, ``diff``, ``diff_se``, the 95 % t-interval ``low``, ``high``, ``clear`` (is
        it more than two standard errors?) and ``p`` of the two-sided t-test against 0. NaN and
        None where pairs are too few.
    """
    found = dict.fromkeys(('diff', 'diff_se', 'low', 'high', 'p'), math.nan)
    found |= dict(pairs=len(diffs), clear=None)
    if len(diffs):
        found['diff'], found['diff_se'] = mean_and_error(diffs)
    if len(diffs) > 1:
        mean, error = found['diff'], found['diff_se']
        half = float(stats.t.ppf(1 - ALPHA / 2, len(diffs) - 1)) * error
        found |= dict(low=mean - half, high=mean + half, clear=abs(mean) > 2 * error)
        # differences that are all the same have no t
        same = np.ptp(diffs) == 0
        found['p'] = float(mean == 0) if same else float(stats.ttest_1samp(diffs, 0).pvalue)
    return found


def holm(p_values: list[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979); a NaN is no test, and stays.

    The smallest of m is multiplied by m, the next by m - 1, and so on, none falling below the one
    before it: if those under 0.05 are believed, the chance of any false one is at most 0.05.
    """
    values = np.asarray(p_values, float)
    order = [i for i in np.argsort(values) if not np.isnan(values[i])]
    adjusted = np.full(len(values), math.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1)
    return adjusted.tolist()


def verdict(diff: float, p: float) -> str:
    """Give the word for a difference and its adjusted p-value, NaN where it was not tested."""
    if math.isnan(p):
        return 'not enough seeds'
    if p >= ALPHA:
        return 'no difference'
    return 'helps' if diff > 0 else 'hurts'


def bootstrap_interval(diffs: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Percentile interval (95 %) of the mean over resampled seeds, the same for every arm.

    Args:
        diffs (np.ndarray): Points by seed [P], or by seed and resample of the images [P, B].
        resamples (int): B.

    Returns:
        tuple[float, float]: NaN for one seed, from which nothing can be resampled.
    """
    diffs = np.asarray(diffs, float)
    if len(diffs) < 2:
        return math.nan, math.nan
    chosen = np.random.default_rng(0).integers(len(diffs), size=(resamples, len(diffs)))
    drawn = diffs[chosen] if diffs.ndim == 1 else diffs[chosen, np.arange(resamples)[:, None]]
    low, high = np.nanpercentile(drawn.mean(1), [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)


@functools.lru_cache(8)
def _image_weights(images: int, resamples: int) -> np.ndarray:
    """How often each image is in each resample [B, N], the same for every run."""
    return np.random.default_rng(1).multinomial(images, [1 / images] * images, resamples)


@functools.lru_cache(_KEPT_FILES)
def _over_images(path: Path, _changed: int, metric: str, resamples: int) -> tuple:
    names = image_names(path)
    return tuple(names), rescore(path, metric, _image_weights(len(names), resamples))


def over_images(run, metric: str, resamples: int) -> tuple:
    """Give the names of a run's test images and its points in each resample of them.

    Two times None where there is no per-image file, or where it does not hold this metric.
    """
    if run is None or not run.is_file():
        return None, None
    return _over_images(run, run.stat().st_mtime_ns, metric, resamples)


def compare(runs: pd.DataFrame, others: pd.DataFrame, resamples: int = RESAMPLES) -> dict:
    """Compare two arms over the cells and seeds that both have.

    Args:
        runs (pd.DataFrame): Runs of an arm, as ``read_records`` gives them.
        others (pd.DataFrame): Runs of the one that it is compared to.
        resamples (int): Of the bootstrap.

    Returns:
        dict: ``paired_difference``'s, with ``boot_low``, ``boot_high``, and ``resampled``, what
        the bootstrap is over: ``'seeds and images'``, or ``'seeds'`` where one of the runs has no
        per-image statistics of this metric, or the two have other images.
    """
    both = runs.merge(others, on=_PAIR, suffixes=('', '_other')).sort_values(_PAIR)
    diffs = (both['points'] - both['points_other']).to_numpy()
    found = paired_difference(diffs)
    drawn, names = [], set()
    for row in both.itertuples():
        for path, sign in ((row.per_image, 1), (row.per_image_other, -1)):
            images, points = over_images(path, row.metric, resamples)
            names.add(images)
            drawn.append(None if points is None else sign * points)
    whole = len(names) == 1 and all(points is not None for points in drawn)
    if whole:
        diffs = np.sum(np.reshape(drawn, (len(both), 2, resamples)), axis=1)
    low, high = bootstrap_interval(diffs, resamples)
    return found | dict(
        boot_low=low, boot_high=high, resampled='seeds and images' if whole else 'seeds'
    )


def compare_all(
    runs: pd.DataFrame, other: str, left_out: tuple[str, ...] = (), resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Compare every arm to one, with Holm's correction over the arms that are tested.

    Args:
        runs (pd.DataFrame): Runs of one cell, or of all.
        other (str): The arm that they are compared to.
        left_out (tuple[str, ...]): Arms that are not compared.
        resamples (int): Of the bootstrap.

    Returns:
        pd.DataFrame: By arm, ``compare``'s with ``p_holm`` and ``verdict``.
    """
    arms = [arm for arm in runs['arm'].unique() if arm not in (other, *left_out)]
    others = runs[runs['arm'] == other]
    rows = [compare(runs[runs['arm'] == arm], others, resamples) for arm in arms]
    enough = [row['pairs'] >= FEWEST_SEEDS for row in rows]
    for row, p in zip(rows, holm([r['p'] if ok else math.nan for r, ok in zip(rows, enough)])):
        row |= dict(p_holm=p, verdict=verdict(row['diff'], p))
    return pd.DataFrame(rows, index=pd.Index(arms, name='arm'), columns=_COMPARED)


_COMPARED = [
    'pairs', 'diff', 'diff_se', 'low', 'high', 'boot_low', 'boot_high', 'resampled', 'clear', 'p',
    'p_holm', 'verdict',
]  # fmt: skip


def _compare_both(
    runs: pd.DataFrame, baseline: str, reference: str, resamples: int
) -> pd.DataFrame:
    compared = compare_all(runs, baseline, resamples=resamples)
    if reference == baseline:
        return compared
    gains = compare_all(runs, reference, (baseline,), resamples)
    return compared.join(gains.add_prefix('gain_'))


def over_all_cells(
    runs: pd.DataFrame, baseline: str, reference: str, resamples: int = RESAMPLES
) -> pd.DataFrame | None:
    """Compare the arms over all pairs of a cell and a seed, as if they were independent.

    Returns:
        pd.DataFrame | None: By arm, as in ``summarise``. None: there is a single cell.
    """
    if len(runs.groupby(CELL)) == 1:
        return None
    return _compare_both(runs, baseline, reference, resamples)


def summarise(
    runs: pd.DataFrame, baseline: str, reference: str, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """One row per cell and arm.

    Args:
        runs (pd.DataFrame): As ``read_records`` gives them.
        baseline (str): The arm that all are compared to.
        reference (str): The arm, vanilla distillation, that a gain is over.
        resamples (int): Of the bootstrap.

    Returns:
        pd.DataFrame: The arm, the cell, ``n``, ``mean``, ``se``; the comparison to the baseline;
        with ``gain_`` before its names that to the reference, unless it is the baseline;
        ``minutes``, ``step_seconds`` and ``step_cost``, seconds a step relative to the baseline's.
    """
    rows = []
    for cell, here in runs.groupby(CELL):
        compared = _compare_both(here, baseline, reference, resamples)
        alone = _step_seconds(here[here['arm'] == baseline])
        for arm, mine in here.groupby('arm', sort=False):
            mean, error = mean_and_error(mine['points'])
            row = {key: mine.iloc[0][key] for key in ('arm', 'config', 'grad_share')}
            row |= dict(zip(CELL, cell)) | dict(n=len(mine), mean=mean, se=error)
            row |= compared.loc[arm].to_dict() if arm in compared.index else {}
            seconds = _step_seconds(mine)
            minutes = float(np.mean([record['minutes'] for record in mine['record']]))
            rows.append(
                row | dict(minutes=minutes, step_seconds=seconds, step_cost=seconds / alone)
            )
    names = ['arm', 'config', 'grad_share', *CELL, 'n', 'mean', 'se', *_COMPARED]
    if reference != baseline:
        names += [f'gain_{name}' for name in _COMPARED]
    return pd.DataFrame(rows, columns=[*names, 'minutes', 'step_seconds', 'step_cost'])


def _step_seconds(runs: pd.DataFrame) -> float:
    """Median over the runs; NaN where none has noted it."""
    seconds = [record.get('step_seconds') for record in runs['record']]
    seconds = [value for value in seconds if value is not None]
    return float(np.median(seconds)) if seconds else math.nan
