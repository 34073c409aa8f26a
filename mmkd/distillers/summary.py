"""What a user reads at the start of training."""

from torch import nn


def summarise(model: nn.Module) -> str:
    """Student, teachers, matched classes, and every term and exit, a line each."""
    distillation = model.distillation
    own = sum(p.numel() for n, p in model.named_parameters() if not n.startswith('distillation.'))
    lines = ['Distillation', f'  student  {type(model).__mro__[2].__name__}, {_millions(own)}']
    for teacher in (distillation.teachers or {}).values():
        if teacher.is_student:
            lines.append(f'  teacher  {teacher.title}: what the student says itself, detached')
            continue
        size = sum(p.numel() for p in teacher.model.parameters())
        line = f'  teacher  {teacher.title}: {type(teacher.model).__name__}, {_millions(size)}'
        if teacher.match is not None:
            line += f', {len(teacher.match.names)} shared classes: {_some(teacher.match.names)}'
        if str(teacher.runtime):
            line += f'; {teacher.runtime} (largest difference {teacher.difference:.1e})'
        if teacher.runtime.is_emulated(next(teacher.model.parameters()).device):
            line += '; this CPU only emulates bfloat16, which is slow: set its autocast=None'
        lines.append(line)
    for index, part in enumerate(distillation.parts):
        if part.is_off:
            lines.append(f'  {part.kind:<8} {part.name}: {type(part).__name__}, off (weight 0)')
            continue
        count = sum(p.numel() for p in part.parameters())
        taps = ', '.join(tap.address for tap in part.student_taps) or 'final predictions'
        lines.append(
            f'  {part.kind:<8} {part.name}: {type(part).__name__} at {taps} '
            f'[{"; ".join(part.shapes)}], weight {part.controller or part.weight}, {part.schedule}'
            + (f', {_millions(count)} as distillation.parts.{index}' if count else '')
        )
    if not distillation.parts:
        lines.append('  no terms and no exits: the student trains alone')
    return '\n'.join(lines)


def _millions(count: int) -> str:
    return f'{count / 1e6:.2f} M parameters'


def _some(names) -> str:
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
