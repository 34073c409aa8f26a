"""Distil a detector and a segmentor on the embedded data set; print a table, draw two pictures.

For each task a teacher, the student alone and the distilled student are trained by tools/train.py,
two trainings at a time, on one thread each. What is finished is not repeated: a second call shows
the results; a changed config runs again, with all that depends on it.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from _common import ROOT
from _show_sheet import draw_sheet
from dataset_converters.digit_scenes import write_digit_scenes
from mmengine.config import Config
from show import Gallery

CONFIGS = ROOT / 'configs' / 'demo'
DATA = Path('data/digits')  # as the configs have it; here and below work_dirs/, the demo writes
PARALLEL = 2
METRICS = dict(detection='coco/bbox_mAP', segmentation='mIoU')
TITLES = dict(detection='box mAP', segmentation='mIoU')
# Scenes that are shown: every tenth of those that hold at least three digits.
ROWS, EVERY, DIGITS = 4, 10, 3


@dataclass
class Stage:
    """One training of the demo.

    Args:
        task: ``'detection'`` or ``'segmentation'``.
        role: ``'teacher'``, ``'student alone'`` or ``'distilled'``.
        config: Its config file, relative to the folder of the demo's configs.
        seconds: How long it took on the machine where this was written.
        teacher: The stage whose weights it needs.
    """

    task: str
    role: str
    config: str
    seconds: float
    teacher: 'Stage | None' = None
    out: Path = field(default=Path())
    options: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where its training writes."""
        return self.out / f'{self.role.split()[0]}_{self.task[:3]}'

    @property
    def weights(self) -> Path:
        """Its last checkpoint, under a name that does not depend on the schedule."""
        return self.folder.with_suffix('.pth')

    def digest(self) -> str:
        """Name everything that its result depends on."""
        text = Config.fromfile(CONFIGS / self.config).pretty_text + str(self.options)
        text += (DATA / 'manifest.json').read_text()
        text += self.teacher.digest() if self.teacher else ''
        return hashlib.sha256(text.encode()).hexdigest()

    def result(self) -> dict | None:
        """Give its score and minutes, if it has finished with what the config says now."""
        file = self.folder / 'result.json'
        if not (file.exists() and self.weights.exists()):
            return None
        result = json.loads(file.read_text())
        return result if result['digest'] == self.digest() else None

    def records(self) -> list[dict]:
        """Give the lines that its training has logged."""
        files = sorted(self.folder.glob('*/vis_data/scalars.json'))
        return [json.loads(line) for line in files[-1].read_text().splitlines()] if files else []

    def share_done(self, iterations: int) -> float:
        """Give the part of its iterations that is done, 0 to 1."""
        steps = [r['step'] for r in self.records() if 'loss' in r]
        return min(steps[-1] / iterations, 1) if steps else 0.0

    def start(self) -> subprocess.Popen:
        """Start its training as a process of one thread."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        options = list(self.options)
        if self.teacher:
            options.append(f'model.teacher.checkpoint={self.teacher.weights}')
        command = [sys.executable, str(ROOT / 'tools/train.py'), str(CONFIGS / self.config)]
        command += ['--work-dir', str(self.folder)]
        if options:
            command += ['--cfg-options', *options]
        self.began = time.time()
        with open(self.folder / 'output.log', 'w') as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1'),
            )

    def finish(self) -> None:
        """Keep the last checkpoint and the score."""
        pointer = (self.folder / 'last_checkpoint').read_text().strip()
        shutil.copy(pointer, self.weights)
        metric = METRICS[self.task]
        # mmdet logs no metric where nothing is predicted.
        score = ([0.0] + [r[metric] for r in self.records() if metric in r])[-1]
        # mmdet counts from 0 to 1, mmseg in percent.
        score = 100 * score if self.task == 'detection' else score
        minutes = (time.time() - self.began) / 60
        result = dict(score=score, minutes=round(minutes, 2), digest=self.digest())
        (self.folder / 'result.json').write_text(json.dumps(result))


def make_stages(out: Path, options: list[str]) -> list[Stage]:
    """Give the six trainings in the order in which they start."""
    names = dict(detection='retinanet', segmentation='fcn')
    seconds = dict(detection=(205, 80, 210), segmentation=(290, 150, 330))
    teachers, alone, distilled = [], [], []
    for task, name in names.items():
        t, a, d = seconds[task]
        common = dict(out=out, options=options)
        teacher = Stage(task, 'teacher', f'{name}_teacher_digits.py', t, **common)
        student = f'{name}_student_digits.py'
        teachers.append(teacher)
        alone.append(Stage(task, 'student alone', student, a, **common))
        taught = f'kd-ds_{name}_digits.py'
        distilled.append(Stage(task, 'distilled', taught, d, teacher, **common))
    return [*teachers, *distilled, *alone]


def clock(seconds: float) -> str:
    """Write a duration as minutes and seconds."""
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


def run_stages(stages: list[Stage]) -> None:
    """Train what has not finished yet, two at a time, and tell how far it is.

    Raises:
        SystemExit: A training failed; the end of its output is shown.
    """
    waiting = [stage for stage in stages if stage.result() is None]
    total = sum(stage.seconds for stage in waiting)
    if not waiting:
        return
    print(f'demo: {len(waiting)} trainings, about {total / PARALLEL / 60:.0f} minutes on 2 cores')
    iterations = {id(s): iterations_of(s) for s in waiting}
    running: list[tuple[Stage, subprocess.Popen]] = []
    done, start, shown = 0.0, time.time(), 0.0
    try:
        while waiting or running:
            busy = [stage for stage, _ in running]
            for stage in list(waiting):
                if len(running) == PARALLEL:
                    break
                if stage.teacher in waiting or stage.teacher in busy:
                    continue
                waiting.remove(stage)
                print(f'demo: {clock(time.time() - start)}  {stage.task}, {stage.role}: started')
                running.append((stage, stage.start()))
            time.sleep(0.5)
            for stage, process in list(running):
                if process.poll() is None:
                    continue
                running.remove((stage, process))
                if process.returncode:
                    print((stage.folder / 'output.log').read_text()[-3000:], file=sys.stderr)
                    raise SystemExit(f'demo: {stage.task}, {stage.role} failed, see above')
                stage.finish()
                done += stage.seconds
                score = stage.result()['score']
                print(
                    f'demo: {clock(time.time() - start)}  {stage.task}, {stage.role}: '
                    f'{score:.1f} {TITLES[stage.task]}'
                )
            now = time.time() - start
            if now - shown >= 20:
                shown = now
                parts = [(s, s.share_done(iterations[id(s)])) for s, _ in running]
                share = (done + sum(s.seconds * part for s, part in parts)) / total
                left = clock(now * (1 - share) / share) if share > 0.02 else '...'
                text = ', '.join(f'{s.task} {s.role} {part:.0%}' for s, part in parts)
                print(f'demo: {clock(now)}  {text}; about {left} left', flush=True)
    finally:
        for _, process in running:
            process.terminate()


def iterations_of(stage: Stage) -> int:
    """Give the number of iterations that a stage trains for."""
    for option in stage.options:
        if option.startswith('train_cfg.max_iters='):
            return int(option.split('=')[1])
    return Config.fromfile(CONFIGS / stage.config).train_cfg.max_iters


def make_table(stages: list[Stage]) -> str:
    """Write the results as a Markdown table."""
    lines = ['| task | metric | student alone | distilled | teacher |', '|---|---|---|---|---|']
    for task, title in TITLES.items():
        score = {s.role: s.result()['score'] for s in stages if s.task == task}
        lines.append(
            f'| {task} | {title} | {score["student alone"]:.1f} | **{score["distilled"]:.1f}** '
            f'| {score["teacher"]:.1f} |'
        )
    return '\n'.join(lines)


def draw(stages: dict[str, Stage], file: Path) -> None:
    """Draw some scenes: labels, and what each model of a task predicts.

    Args:
        stages: The trainings of a task by role.
        file: The picture to write.
    """
    taught = stages['distilled']
    cfg = Config.fromfile(CONFIGS / taught.config)
    cfg.model.teacher.checkpoint = str(stages['teacher'].weights)
    alone = str(stages['student alone'].weights)
    gallery = Gallery(cfg, str(taught.weights), alone, split='val', side=260)
    enough = [i for i in range(len(gallery.dataset)) if gallery.objects(i) >= DIGITS]
    rows = []
    for scene in gallery.of_data(enough[::EVERY][:ROWS]):
        panels = gallery.panels(*scene)[0]
        for panel in panels:
            if panel.title in stages:
                score = stages[panel.title].result()['score']
                panel.title = f'{panel.title}: {score:.1f} {TITLES[taught.task]}'
        rows.append(panels)
    draw_sheet(rows, gallery.legends(True), file)


def main() -> None:
    """Train, print the table, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument(
        '--iters', type=int, help='iterations of each training, to try the way in a minute'
    )
    args = parser.parse_args()
    written = write_digit_scenes(DATA)
    print(f'demo: {DATA} {"written" if written else "is there"}')
    options = []
    if args.iters:
        options = [f'train_cfg.max_iters={args.iters}', f'train_cfg.val_interval={args.iters}']
    stages = make_stages(args.out, options)
    run_stages(stages)
    table = make_table(stages)
    (args.out / 'table.md').write_text(table + '\n')
    for task in TITLES:
        draw({s.role: s for s in stages if s.task == task}, args.out / f'{task}.png')
    minutes = sum(stage.result()['minutes'] for stage in stages)
    print(f'\n{table}\n\n{minutes:.0f} minutes of training; pictures: {args.out}/*.png')


if __name__ == '__main__':
    main()
