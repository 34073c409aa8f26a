"""Draw a config: student, teachers, what is tapped, terms and exits, from the built model.

Weights are not loaded: teachers are drawn with random ones.

Example: ``python tools/draw_distillation.py CONFIG --out picture.svg``
"""

import argparse
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from _common import load_config, run_tool
from mmengine.config import DictAction
from mmengine.registry import init_default_scope

from mmkd.registry import MODELS

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

WIDTH, GAP = 2.5, 0.35  # of a column and between two, in inches
LETTERS, LINES = 29, 5  # that fit into a box
TEXT, TERM, LABELS = '#111827', '#c2410c', '#15803d'
COLOURS = dict(  # of a face and its edge
    teacher=('#e5e7eb', '#6b7280'), student=('#dbeafe', '#2563eb'), module=('#eff6ff', '#2563eb'),
    tap=('#ffffff', '#6b7280'), term=('#fff7ed', TERM), exit=('#fef3c7', '#d97706'),
)  # fmt: skip
PREDICTIONS = 'final predictions'


@dataclass
class Column:
    """One term or exit, or a module that none listens to.

    Args:
        module: the student's module that it stands in.
        part: the term or exit, if any.
    """

    module: str
    part: object = None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Draw a distillation')
    parser.add_argument('config', help='config file of a distillation')
    parser.add_argument('--out', default='distillation.svg', help='.svg, .png or .pdf')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    return parser.parse_args(argv)


def columns_of(model) -> list[Column]:
    """The student's modules in order, the final predictions last; each part where it listens."""
    modules = [
        n for n, _ in model.named_children() if n not in ('data_preprocessor', 'distillation')
    ]
    columns = []
    for module in [*modules, PREDICTIONS]:
        parts = [p for p in model.distillation.parts if not p.is_off and home(p) == module]
        columns += [Column(module, part) for part in parts] or [Column(module)]
    return columns


def home(part) -> str:
    """The student's module in which a part listens."""
    path = part.student_taps[0].path if part.student_taps else getattr(part, 'own_head', None)
    return path.split('.')[0] if path else PREDICTIONS


def student_lines(part) -> list[str]:
    """What a part listens to in the student, with the shapes of the dry run."""
    taps = [tap.address for tap in part.student_taps] or [getattr(part, 'own_head', PREDICTIONS)]
    shapes = [shape.removeprefix('predictions ') for shape in part.shapes]
    return [*wrapped(taps, LINES - 2), *wrapped(shapes, LINES - len(taps[:3]))]


def teacher_lines(part) -> list[str]:
    """What it listens to in its teacher."""
    taps = [tap.address for tap in part.teacher_taps]
    taps += [PREDICTIONS] if part.uses_predictions else []
    return wrapped(list(dict.fromkeys(taps)), LINES)


def part_lines(part) -> list[str]:
    """What a part is: its name, type, losses, weight and schedule."""
    kind = type(part).__name__
    of_predictions = getattr(getattr(part, 'criterion', None), 'parts', {})
    losses = {
        type(loss).__name__ for loss in [*getattr(part, 'losses', ()), *of_predictions.values()]
    }
    weight = part.controller or f'weight {part.weight}'
    lines = [part.name, kind, *wrapped(sorted(losses), 3)]
    if part.kind == 'exit':
        switches = {n: getattr(part, n, 0) for n in ('gt', 'kd', 'feat')}
        lines = [part.name, kind, ', '.join(f'{n} {v}' for n, v in switches.items() if v)]
    return [line for line in [*lines, *wrapped([str(weight), str(part.schedule)], 3)] if line]


def wrapped(items: list[str], most: int) -> list[str]:
    """Items in lines that fit, at most so many."""
    lines = [line for item in items for line in textwrap.wrap(item, LETTERS)]
    return lines if len(lines) <= most else [*lines[: most - 1], '...']


class Picture:
    """A figure in inches whose y runs down.

    Args:
        columns: from left to right.
        teachers: by name; a row each.
    """

    def __init__(self, columns: list[Column], teachers: dict) -> None:
        self.columns = columns
        self.lefts = [GAP]
        for column in columns:
            self.lefts.append(self.lefts[-1] + GAP + WIDTH * (1 if column.part else 0.6))
        self.rows = {name: 0.2 + 1.85 * i for i, name in enumerate(teachers)}
        self.student = 0.2 + 1.85 * len(teachers) + 1.75 * bool(teachers)
        exits = any(column.part is not None and column.part.kind == 'exit' for column in columns)
        size = (self.lefts[-1], self.student + (4.6 if exits else 2.7))
        self.figure = plt.figure(figsize=size)
        self.axes = self.figure.add_axes([0, 0, 1, 1], xlim=(0, size[0]), ylim=(size[1], 0))
        self.axes.axis('off')

    def box(self, x, y, width, height, colours, lines=(), bold=True, dashed=False) -> None:
        """A box with centred lines, the first one bold if wanted."""
        face, edge = colours
        shape = FancyBboxPatch((x, y), width, height, boxstyle='round,pad=0,rounding_size=0.07')
        shape.set(facecolor=face, edgecolor=edge, linestyle='--' if dashed else '-')
        self.axes.add_patch(shape)
        top = y + height / 2 - 0.19 * (len(lines) - 1) / 2
        for i, line in enumerate(lines):
            self.text(x + width / 2, top + 0.19 * i, line, bold and i == 0)

    def text(self, x, y, line, bold=False, colour=TEXT, align='center') -> None:
        """A line of text."""
        weight = 'bold' if bold else 'normal'
        self.axes.text(x, y, line, ha=align, va='center', size=9.5, weight=weight, color=colour)

    def arrow(self, x, start, end, colour, dashed=False) -> None:
        """A vertical arrow."""
        line = dict(arrowstyle='-|>', color=colour, lw=1.6, linestyle='--' if dashed else '-')
        self.axes.annotate('', (x, end), (x, start), arrowprops=dict(shrinkA=0, shrinkB=0, **line))

    def draw_models(self, title: str, teachers: dict, labels: bool) -> None:
        """The student with its modules, and a row for each teacher."""
        width = self.lefts[-1] - GAP
        for name, teacher in teachers.items():
            called = f'teacher {name or ""}'.strip() + f': {teacher.title}'
            self.box(GAP / 2, self.rows[name], width, 1.6, COLOURS['teacher'])
            self.text(GAP, self.rows[name] + 0.2, called, True, align='left')
        self.box(GAP / 2, self.student, width, 1.95, COLOURS['student'])
        self.text(GAP + 0.35, self.student + 0.2, f'student: {title}', True, align='left')
        modules = [column.module for column in self.columns]
        for module in dict.fromkeys(modules):
            first, count = modules.index(module), modules.count(module)
            x, y = self.lefts[first], self.student + 0.4
            wide = self.lefts[first + count] - GAP - x
            self.box(x, y, wide, 1.45, COLOURS['module'], dashed=True)
            self.text(x + 0.12, y + 0.16, module, True, COLOURS['student'][1], 'left')
            if module == PREDICTIONS and labels:
                self.draw_labels(x + wide / 2, self.student + 1.85)

    def draw_labels(self, x, y) -> None:
        """What the labels teach, from below."""
        self.arrow(x, y + 0.42, y, LABELS)
        self.text(x, y + 0.54, 'labels', colour=LABELS)

    def draw_part(self, index: int, part) -> None:
        """A term between its taps, or an exit below its own."""
        x, is_exit = self.lefts[index], part.kind == 'exit'
        left = x + (0.35 if is_exit else 0.1)  # an exit's teacher passes by the student
        wide = x + WIDTH - 0.1 - left
        middle = left + wide / 2
        tap = self.student + 0.72
        self.box(left, tap, wide, 1.03, COLOURS['tap'], student_lines(part), False)
        end = tap + 1.68 if is_exit else self.student - 1.6
        if part.uses_teacher:
            row = self.rows[part.teacher]
            self.box(x, row + 0.4, WIDTH, 1.08, COLOURS['tap'], teacher_lines(part), False)
            self.arrow(x + 0.17 if is_exit else middle, row + 1.48, end, TERM, dashed=is_exit)
        if is_exit:
            self.arrow(middle, tap + 1.03, end, COLOURS['student'][1])
        else:
            self.arrow(middle, end + 1.25, tap, TERM)
        colours = COLOURS['exit' if is_exit else 'term']
        self.box(x, end, WIDTH, 1.25, colours, part_lines(part), dashed=is_exit)
        if getattr(part, 'gt', 0):
            self.draw_labels(middle, end + 1.25)


def main(args: argparse.Namespace) -> None:
    """Build the distillation and draw it."""
    args.work_dir, args.launcher, args.local_rank, args.debug = None, 'none', 0, False
    cfg = load_config(args)
    if 'student' not in cfg.model:
        raise ValueError(
            f'{args.config}: the model has no student; give the config of a distillation'
        )
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    teacher = cfg.model.get('teacher')
    if isinstance(teacher, dict):
        single = 'config' in teacher
        for one in [teacher] if single else [v for v in teacher.values() if isinstance(v, dict)]:
            one['checkpoint'] = None
    model = MODELS.build(cfg.model)
    teachers = model.distillation.teachers or {}
    picture = Picture(columns_of(model), teachers)
    labels = model.distillation.student_loss_weight > 0
    picture.draw_models(type(model).__mro__[2].__name__, teachers, labels)
    for index, column in enumerate(picture.columns):
        if column.part is not None:
            picture.draw_part(index, column.part)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    stable = dict(metadata=dict(Date=None)) if args.out.endswith('.svg') else {}
    with plt.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'mmkd'}):
        picture.figure.savefig(args.out, dpi=110, facecolor='white', **stable)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
