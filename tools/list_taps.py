"""List every address that fires in student and teacher, with shapes, side by side.

Example: ``python tools/list_taps.py CONFIG --depth 3 --grep neck``
"""

import argparse
import sys

from _common import load_config, run_tool
from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

from mmkd.distillers.rehearsal import Rehearsal, forked_random_state
from mmkd.distillers.runtime import Runtime
from mmkd.distillers.teachers import build_teachers
from mmkd.families import find_family
from mmkd.registry import build_in_scope
from mmkd.terms.tap import Tap


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='List the taps of a distillation or a model')
    parser.add_argument('config', help='config file of a distillation or of a stock model')
    parser.add_argument('--depth', type=int, default=2, help='levels of modules to list')
    parser.add_argument('--grep', default='', help='only addresses that contain this text')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    return parser.parse_args(argv)


class _Listener:
    """Stands where a term does, and taps a whole model."""

    uses_teacher = True

    def __init__(self, teacher, student_taps, teacher_taps) -> None:
        self.teacher = teacher
        self.student_taps = student_taps
        self.teacher_taps = teacher_taps


def addresses(model, depth: int, grep: str) -> list[Tap]:
    """Every module's output down to a depth."""
    names = [n for n, _ in model.named_modules() if n and n.count('.') < depth and grep in n]
    return [Tap.parse(name) for name in names if not name.startswith('data_preprocessor')]


def shapes(capture, tap: Tap) -> str:
    """What an address gives, call by call; empty if it never fires."""
    calls = capture.calls(tap)
    if not calls:
        return ''
    described = [_describe(value) for value in calls]
    if len(calls) == 1:
        return described[0]
    return f'{len(calls)} calls: ' + ', '.join(dict.fromkeys(described))


def _describe(value) -> str:
    if isinstance(value, (tuple, list)):
        return '(' + ', '.join(_describe(item) for item in value) + ')'
    if hasattr(value, 'shape'):
        return 'x'.join(str(n) for n in value.shape[1:])
    return type(value).__name__


def main(args: argparse.Namespace) -> None:
    """Run student and teachers once on a synthetic image and print what fires."""
    args.work_dir, args.launcher, args.local_rank, args.debug = None, 'none', 0, False
    cfg = load_config(args)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    distils = 'student' in cfg.model
    student_cfg = dict(cfg.model.student if distils else cfg.model)
    student_cfg.setdefault('_scope_', cfg.get('default_scope'))
    student = build_in_scope(student_cfg, 'student')
    taps = addresses(student, args.depth, args.grep)
    with forked_random_state(0):
        teachers = build_teachers(cfg.model.get('teacher') if distils else None, student)
        for teacher in teachers.values():
            teacher.runtime = Runtime()  # what makes it cheaper leaves some addresses out
        listeners = [_Listener(None, taps, [])] + [
            _Listener(name, [], addresses(teacher.model, args.depth, args.grep))
            for name, teacher in teachers.items()
        ]
        rehearsal = Rehearsal.run(student, student_cfg, find_family(student), teachers, listeners)
    columns = {'student': (rehearsal.student.capture, taps)}
    for listener, teacher in zip(listeners[1:], teachers.values()):
        capture = rehearsal.heard[listener.teacher].capture
        columns[f'teacher {teacher.title}'] = (capture, listener.teacher_taps)
    table = Table('address', *columns, title=f'On two {rehearsal.side}x{rehearsal.side} images')
    for tap in dict.fromkeys(t for _, listed in columns.values() for t in listed):
        cells = [shapes(c, tap) if tap in listed else '-' for c, listed in columns.values()]
        if any(cell not in ('', '-') for cell in cells):
            table.add_row(tap.address, *cells)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(
        "An empty cell never fires. Add :in for a module's first input, [i], [i:j] or [i][j] to "
        'pick; C x H x W.',
        markup=False,
    )


if __name__ == '__main__':
    arguments = parse_args()
    sys.exit(run_tool(main, arguments))
