"""Where the runs of a comparison are trained: on this machine, or as an array of Slurm jobs."""

import json
import os
import queue
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from _common import ROOT
from _compare_run import Run, RunFailedError

_POLL = 5.0  # seconds between two looks at the jobs
_GRACE = 100  # seconds that Slurm's warning comes before its time limit
Outcome = tuple[Run, dict | Exception]


def gpus() -> list[str]:
    """Give the names of the GPUs that this process may use, for ``CUDA_VISIBLE_DEVICES``."""
    allowed = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = allowed.split(',') if allowed else map(str, range(torch.cuda.device_count()))
    return list(names) if torch.cuda.is_available() else []


def run_here(pending: list[Run], jobs: int) -> Iterator[Outcome]:
    """Train on this machine, several at a time, each on a GPU of its own where there are some.

    Args:
        pending: The runs.
        jobs: How many at a time; more than there are GPUs share them.

    Yields:
        Each run as it ends, with its record or its error.
    """
    free: queue.Queue[str] = queue.Queue()
    names = gpus()
    for number in range(jobs if names else 0):
        free.put(names[number % len(names)])

    def train(run: Run) -> dict:
        if not names:
            return run()
        name = free.get()
        run.environment['CUDA_VISIBLE_DEVICES'] = name
        try:
            return run()
        finally:
            free.put(name)

    pool = ThreadPoolExecutor(jobs)
    futures = {pool.submit(train, run): run for run in pending}
    try:
        for future in as_completed(futures):
            error = future.exception()
            yield futures[future], future.result() if error is None else error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for run in pending:
            if run.process is not None and run.process.poll() is None:
                run.process.terminate()


class Task:
    """A run as Slurm trains it; before a time limit or a preemption it saves, and is queued again.

    Args:
        run (Run): The run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self) -> dict:
        """Train and test."""
        return self.run()

    def checkpoint(self):
        """Wait until the training, which got the same signal, has saved; then queue it again."""
        import submitit

        if self.run.process is not None:
            try:
                self.run.process.wait(0.8 * _GRACE)
            except subprocess.TimeoutExpired:
                self.run.process.kill()
            self.run.process = None
        return submitit.helpers.DelayedSubmission(self)


def run_on_slurm(
    pending: list[Run], jobs: int, folder: Path, options: dict[str, str | int]
) -> Iterator[Outcome]:
    """Train as a job array, through submitit; jobs of an earlier call that still wait or run count.

    Where this process ends, the jobs go on: the same command finds them again.

    Args:
        pending: The runs.
        jobs: How many jobs may run at a time.
        folder: Where submitit writes scripts and logs.
        options: submitit's parameters, such as ``timeout_min``, ``slurm_partition``.

    Yields:
        Each run as it ends, with its record or its error.

    Raises:
        ValueError: submitit is not installed, or Slurm is not there.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ValueError('--executor slurm needs submitit: pip install submitit') from error
    # The training understands SIGUSR1; it and submitit get the same signal.
    os.environ['SUBMITIT_PREEMPT_SIGNAL'] = 'USR1'
    os.environ['PYTHONPATH'] = os.pathsep.join(
        [str(ROOT / 'tools'), *filter(None, [os.environ.get('PYTHONPATH')])]
    )
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    book = folder / 'jobs.json'
    known = json.loads(book.read_text()) if book.is_file() else {}
    working = {}
    for run in pending:
        if run.result.name in known:
            job = submitit.SlurmJob(folder, known[run.result.name])
            if job.job_id in (in_queue() or ()):
                working[run] = job
    if working:
        print(f'{len(working)} jobs of an earlier call still wait or run.', flush=True)
    new = [run for run in pending if run not in working]
    if new:
        try:
            # a run saves before each time limit, so any number of them does no harm
            executor = submitit.AutoExecutor(folder, cluster='slurm', slurm_max_num_timeout=1000)
        except RuntimeError as error:
            raise ValueError(
                f'--executor slurm: {error}; start where sbatch works, or use --executor local'
            ) from error
        defaults = dict(name='mmkd', gpus_per_node=1, slurm_array_parallelism=jobs)
        defaults |= dict(slurm_signal_delay_s=_GRACE)
        try:
            executor.update_parameters(**defaults | options)
        except NameError as error:
            raise ValueError(f'--slurm: {str(error).splitlines()[0]}') from error
        with executor.batch():  # one job array
            jobs_of = {run: executor.submit(Task(run)) for run in new}
        working |= jobs_of
        known |= {run.result.name: job.job_id for run, job in working.items()}
        book.write_text(json.dumps(known, indent=1))
    missed: set[Run] = set()
    while working:
        queued = in_queue()
        for run, job in list(working.items()):
            if job.paths.result_pickle.exists():
                error = job.exception()
                yield run, job.result() if error is None else error
            elif queued is None or job.job_id in queued:
                missed.discard(run)
                continue
            elif run not in missed:  # its result may be on its way through a shared file system
                missed.add(run)
                continue
            else:
                yield (
                    run,
                    RunFailedError(
                        f'job {job.job_id} left the queue without a result (see {job.paths.stderr})'
                    ),
                )
            del working[run]
        if working:
            time.sleep(_POLL)


def in_queue() -> set[str] | None:
    """Give the user's jobs that wait or run, or ``None`` where Slurm does not answer.

    ``squeue`` knows it on every cluster; submitit would ask the accounting, which not all have.
    """
    command = ['squeue', '--me', '--noheader', '--array', '--format=%i']
    done = subprocess.run(command, capture_output=True, text=True)
    return set(done.stdout.split()) if done.returncode == 0 else None
