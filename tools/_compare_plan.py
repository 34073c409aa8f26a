"""What a comparison will run, how long it takes, and where it stands."""

import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from _compare_run import Run
from rich.console import Console
from rich.table import Table

_LONGEST_TABLE = 40  # rows that a reader still reads


class Plan:
    """The runs of a comparison and the time that they need.

    Args:
        runs (list[Run]): All of them, in order.
        jobs (int): Runs at a time.
        finished (Iterable[dict]): Records of runs that have finished before, by which the others
            are estimated.
    """

    def __init__(self, runs: list[Run], jobs: int, finished: Iterable[dict] = ()) -> None:
        self.runs = runs
        self.jobs = jobs
        self.minutes: dict[str, list[float]] = {}
        self.state = {run: 'finished' if run.result.is_file() else 'waiting' for run in runs}
        for record in finished:
            self._learn(record)

    @property
    def pending(self) -> list[Run]:
        """The runs that have no result yet."""
        return [run for run in self.runs if self.state[run] == 'waiting']

    def finish(self, run: Run, record: dict) -> None:
        """Note that a run has ended well."""
        self.state[run] = 'finished'
        self._learn(record)

    def fail(self, run: Run) -> None:
        """Note that a run has ended with an error."""
        self.state[run] = 'failed'

    def _learn(self, record: dict) -> None:
        length = record['minutes'] / record.get('schedule', 1)
        self.minutes.setdefault(record['config'], []).append(length)

    def estimate(self, run: Run) -> float | None:
        """Estimate a run's minutes by the finished runs of its config, or else of all configs."""
        known = self.minutes.get(run.config.stem) or [
            m for each in self.minutes.values() for m in each
        ]
        return run.schedule * sum(known) / len(known) if known else None

    def remaining(self) -> float | None:
        """Estimate the minutes left; ``None`` before the first run has finished."""
        pending = self.pending
        lengths = [self.estimate(run) for run in pending]
        if None in lengths:
            return None
        return sum(lengths) / min(self.jobs, max(len(pending), 1))

    def outlook(self) -> str:
        """Say when it will end."""
        left = self.remaining()
        if left is None:
            return 'the end is estimated once the first run has finished'
        end = time.localtime(time.time() + 60 * left)
        day = '' if left < 12 * 60 else '%d %b '
        return f'about {left:.0f} min left, until {time.strftime(f"{day}%H:%M", end)}'

    def table(self) -> pd.DataFrame:
        """One row per run: what it is, its state, its minutes (estimated where it has not run)."""
        rows = [
            dict(
                config=run.config.stem,
                grad_share=run.grad_share,
                fraction=run.fraction,
                schedule=run.schedule,
                seed=run.seed,
                state=self.state[run],
                expected_minutes=self.estimate(run),
                result=run.result.name,
            )
            for run in self.runs
        ]
        return pd.DataFrame(rows)

    def write(self, out: Path) -> None:
        """Write the table as ``plan.csv``."""
        self.table().to_csv(out / 'plan.csv', index=False, float_format='%.4g')

    def show(self) -> None:
        """Print what is to run: a row per config and share of the gradient, a column per seed."""
        done = len(self.runs) - len(self.pending)
        print(
            f'{len(self.runs)} runs, {done} of them finished before; {self.outlook()}.', flush=True
        )
        arms: dict[str, dict[int, str]] = {}
        for run in self.runs:
            mark = 'x' if self.state[run] == 'finished' else '.'
            arms.setdefault(run.arm, {}).setdefault(run.seed, mark)
        if len(self.runs) == 1 or len(arms) > _LONGEST_TABLE:
            return
        seeds = list(dict.fromkeys(run.seed for run in self.runs))
        table = Table('run', *map(str, seeds), title='seeds; x is finished', title_justify='left')
        for arm, marks in arms.items():
            table.add_row(arm, *(marks.get(seed, '') for seed in seeds))
        Console(soft_wrap=True).print(table)
