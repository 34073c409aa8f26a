"""One run of a comparison: trained and tested by processes of their own."""

import contextlib
import fcntl
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from _common import ROOT
from _provenance import describe_commit, describe_machine, environment, identify, resolve
from _stretch import stretch
from mmengine.config import Config

_HEARTBEAT = 2.0  # seconds between two notes of the time spent
_PER_IMAGE = 'per_image.npz'
# Metrics that a reader expects, in order; those in 0..1 are reported in points, 0..100.
_MAIN_METRICS = ('coco/bbox_mAP', 'mIoU', 'pascal_voc/mAP', 'coco_panoptic/PQ', 'coco/segm_mAP')
_FRACTIONS = ('coco/', 'pascal_voc/')


def main_metric(metrics: dict) -> str:
    """Pick the metric that stands for a run: the best known one, else the first."""
    return next((key for key in _MAIN_METRICS if key in metrics), next(iter(metrics)))


def nothing_predicted(evaluator: dict) -> dict[str, float]:
    """Give the metrics that mmdet's ``CocoMetric`` leaves out where a model predicts nothing: 0.

    Raises:
        RunFailedError: Another evaluator gave no metric.
    """
    if evaluator.get('type') != 'CocoMetric':
        raise RunFailedError('the test gave no metric: check the evaluator of the config')
    kinds = evaluator.get('metric', 'bbox')
    return {f'coco/{kind}_mAP': 0.0 for kind in ([kinds] if isinstance(kinds, str) else kinds)}


def in_points(metric: str, value: float) -> float:
    """Convert a metric to points, 0..100."""
    return 100 * value if metric.startswith(_FRACTIONS) else value


def read_log(run_dir: Path) -> list[dict]:
    """Read what training has logged, in order; a resumed run has several logs."""
    entries = []
    for log in sorted(run_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a killed run
                entries.append(json.loads(line))
    return entries


def read_curve(entries: list[dict], metric: str) -> list[list[float]]:
    """Give ``[iteration, points]`` of each validation."""
    curve = {e['step']: in_points(metric, e[metric]) for e in entries if metric in e}
    return [[step, curve[step]] for step in sorted(curve)]


def read_cost(entries: list[dict]) -> dict:
    """Give the number of iterations and the median seconds of one, as far as they were logged."""
    steps = [entry for entry in entries if 'loss' in entry and 'time' in entry]
    if not steps:
        return {}
    seconds = statistics.median(entry['time'] for entry in steps)
    return dict(iterations=max(e['step'] for e in steps), step_seconds=round(seconds, 4))


class RunFailedError(Exception):
    """A training or test process ended with an error."""


@dataclass(eq=False)
class Run:
    """A config with a seed, on a share of the data, for a multiple of its schedule.

    Args:
        config (Path): The config file.
        seed (int): Becomes ``randomness.seed``, and fixes the share of the data.
        options (list[str]): ``KEY=VALUE`` as given to ``--cfg-options``.
        out (Path): Folder of the result files.
        run_dir (Path): Folder of the work dirs; it becomes the run's own within.
        split (str): ``'test'`` or ``'val'``, what the final checkpoint is scored on.
        metric (str | None): The metric that stands for the run; ``None`` picks a known one.
        fraction (float): Share of the training set.
        schedule (float): Multiple of the config's own schedule.
        grad_share (float | None): At which ``options`` hold all terms and exits; ``None``: at none.
    """

    config: Path
    seed: int
    options: list[str]
    out: Path
    run_dir: Path
    split: str = 'test'
    metric: str | None = None
    fraction: float = 1
    schedule: float = 1
    grad_share: float | None = None

    def __post_init__(self) -> None:
        words = [self.config.stem]
        words += [] if self.grad_share is None else [f'share {self.grad_share:g}']
        words += [] if self.fraction == 1 else [f'data {self.fraction:g}']
        words += [] if self.schedule == 1 else [f'schedule {self.schedule:g}']
        self.arm = ' '.join(words)
        self.name = f'{self.arm} seed {self.seed}'
        stem = '_'.join(word.replace(' ', '') for word in [*words, f'seed{self.seed}'])
        self.result = self.out / f'{stem}.json'
        self.run_dir = (
            self.run_dir / '_'.join(w.replace(' ', '') for w in words) / f'seed{self.seed}'
        )
        self.cfg, self.identity = self._read()
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen | None = None

    def _read(self) -> tuple[Config, dict]:
        cfg = resolve(self.config, self.options)
        stretch(cfg, self.schedule)
        return cfg, identify(cfg)

    def stale(self) -> Path | None:
        """Return the result or work dir that another config, teacher or split has left here."""
        for file, place in ((self.result, self.result), (self._note, self.run_dir)):
            if file.is_file() and self._differs(json.loads(file.read_text())):
                return place
        return None

    def _differs(self, found: dict) -> bool:
        teacher = self.identity['teacher_sha256']
        return (
            found['config_hash'] != self.identity['config_hash']
            or found.get('split', self.split) != self.split
            # A result stays valid on a machine that does not hold the teacher's file.
            or (teacher is not None and found['teacher_sha256'] != teacher)
        )

    def discard(self) -> None:
        """Delete the result and the work dir."""
        self.result.unlink(missing_ok=True)
        self.result.with_suffix('.npz').unlink(missing_ok=True)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def __call__(self) -> dict:
        """Train (on from the last checkpoint, if there is one), test once, write the result.

        Raises:
            RunFailedError: A process ended with an error, or another one works in this work dir,
                or the config or the teacher's file was changed while the run waited.
        """
        if self._read()[1] != self.identity:
            raise RunFailedError('its config or teacher file changed while it waited: start again')
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with self._locked() as lock:
            if self.result.is_file():  # another comparison finished it while it waited
                return json.loads(self.result.read_text())
            note = self._read_note()
            commit, dirty = describe_commit()
            if not note['trained']:
                self._train(note, lock)
            metrics = self._test(lock)
        metric = self.metric or main_metric(metrics)
        if metric not in metrics:
            raise RunFailedError(f'no metric {metric!r} among {", ".join(metrics)}: see --metric')
        entries = read_log(self.run_dir)
        images = self.run_dir / self.split / _PER_IMAGE
        if images.is_file():
            shutil.copy(images, self.result.with_suffix('.npz'))
        record = dict(
            config=self.config.stem,
            **self.identity,
            seed=self.seed,
            fraction=self.fraction,
            schedule=self.schedule,
            grad_share=self.grad_share,
            split=self.split,
            metric=metric,
            score=in_points(metric, metrics[metric]),
            metrics=metrics,
            curve=read_curve(entries, metric),
            **read_cost(entries),
            commit=commit,
            dirty=dirty,
            minutes=round(note['seconds'] / 60, 2),
            machine=describe_machine(),
            finished=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        )
        _write_json(self.result, record)
        return record

    @property
    def _note(self) -> Path:
        return self.run_dir / 'run.json'

    def _read_note(self) -> dict:
        if self._note.is_file():
            return json.loads(self._note.read_text())
        note = dict(**self.identity, seconds=0.0, trained=False)
        _write_json(self._note, note)
        return note

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        # The processes inherit the lock: one that outlived a killed comparison still holds it.
        with (self.run_dir / 'lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFailedError(f'another process still works in {self.run_dir}') from error
            yield lock.fileno()

    def checkpoint(self) -> Path | None:
        """Return the run's last checkpoint, if there is a whole one."""
        pointer = self.run_dir / 'last_checkpoint'
        if not pointer.is_file():
            return None
        path = self.run_dir / Path(pointer.read_text().strip()).name
        return path if path.is_file() else None

    def _train(self, note: dict, lock: int) -> None:
        # Validations are logged by iteration under both loops, so that curves share an axis.
        options = ['default_hooks.logger.log_metric_by_epoch=False']
        if 'logger' not in self.cfg.get('default_hooks', {}):
            options.append('default_hooks.logger.type=LoggerHook')
        arguments = ['--work-dir', str(self.run_dir)]
        arguments += [f'--fraction={self.fraction:g}', f'--schedule={self.schedule:g}']
        checkpoint = self.checkpoint()
        if checkpoint is not None:
            arguments += ['--resume', str(checkpoint)]
        for seconds in self._process('train', arguments, options, lock):
            note['seconds'] += seconds
            _write_json(self._note, note)
        note['trained'] = True
        _write_json(self._note, note)

    def _test(self, lock: int) -> dict[str, float]:
        checkpoint = self.checkpoint()
        if checkpoint is None:
            raise RunFailedError(
                f'no checkpoint in {self.run_dir}: the config needs a CheckpointHook'
            )
        folder = self.run_dir / self.split
        shutil.rmtree(folder, ignore_errors=True)
        arguments = [str(checkpoint), '--work-dir', str(folder), '--split', self.split]
        arguments += ['--per-image', str(folder / _PER_IMAGE)]
        for _ in self._process('test', arguments, [], lock):
            pass
        (file,) = folder.glob('*/*.json')
        metrics = json.loads(file.read_text())
        timers = ('data_time', 'time')
        numbers = {
            k: v for k, v in metrics.items() if isinstance(v, float | int) and k not in timers
        }
        return numbers or nothing_predicted(self.cfg[f'{self.split}_evaluator'])

    def _process(
        self, tool: str, arguments: list[str], options: list[str], lock: int
    ) -> Iterator[float]:
        """Run a tool; yield the seconds spent since the last yield."""
        options = [*self.options, f'randomness.seed={self.seed}', *options]
        command = [sys.executable, str(ROOT / 'tools' / f'{tool}.py'), str(self.config), *arguments]
        log = self.run_dir / f'{tool}.log'
        before = time.monotonic()
        with log.open('a') as file:
            self.process = subprocess.Popen(
                [*command, '--cfg-options', *options],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment() | self.environment,
                pass_fds=[lock],
            )
            code = None
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self.process.wait(_HEARTBEAT)
                now = time.monotonic()
                yield now - before
                before = now
        if code:
            lines = log.read_text(errors='replace').strip().splitlines() or ['it printed nothing']
            raise RunFailedError(f'{lines[-1]} (exit code {code}, see {log})')


def _write_json(path: Path, content: dict) -> None:
    """Write a file as a whole: a kill leaves the old one or the new one."""
    draft = path.with_suffix('.part')
    draft.write_text(json.dumps(content, indent=1) + '\n')
    draft.replace(path)
