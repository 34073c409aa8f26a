"""Feature distillation at any pair of taps."""

import copy

import torch
from torch import Tensor

from mmkd.registry import MODELS, build

from .term import Term, full_precision, parse_taps, shape_of
from .tokens import TokenGrid

_PER_LEVEL = ('mask', 'label', 'scores')  # what of a loss's context depends on the map's size


@MODELS.register_module()
class FeatureKD(Term):
    """Teaches the student's features those of the teacher.

    Args:
        tap: address in the student, or a list of them; each tensor is ``[B, C, H, W]``,
            or tokens ``[B, N, C]`` of a vision transformer, whose grid of patches is found.
        teacher_tap: address in the teacher; ``None``: the same.
        teacher: which teacher, where several are named.
        adapter: ``'auto'`` (see :class:`mmkd.adapters.Project`), ``None`` where shapes fit as they
            are, or the config of an adapter built with ``in_channels`` and ``out_channels``.
        region: config of a weight map; ignored and padded cells are always out.
        loss: config of a loss with ``forward(student, teacher, mask=None, **context)``. Each
            tensor of the tap has a copy of its own, unless the loss takes all of them together.
        weight: a number, or one per tensor of the tap.
        schedule: ``dict(begin=0, warmup=0, end=None, fade=0)`` in iterations.

    Raises:
        ValueError: on an address, a weight or a type that does not exist.
    """

    def __init__(
        self, tap, teacher_tap=None, teacher=None, adapter='auto', region=None,
        loss=dict(type='PKDLoss'), weight=1.0, schedule=None,  # noqa: B006
    ):  # fmt: skip
        super().__init__(weight, schedule, teacher)
        self.student_taps = parse_taps(tap)
        self.teacher_taps = self.student_taps if teacher_tap is None else parse_taps(teacher_tap)
        self._adapter = adapter
        self._loss = build(loss, 'loss')
        self._asks = tuple(getattr(self._loss, 'asks', ()))
        self._any_channels = getattr(self._loss, 'any_channels', False)
        self._takes_levels = getattr(self._loss, 'takes_levels', False)
        self.region = None if region is None else build(region, 'region')
        self.uses_predictions = getattr(self.region, 'needs_predictions', False)
        self.uses_predictions |= 'scores' in self._asks
        self.adapters = torch.nn.ModuleList()
        self.losses = torch.nn.ModuleList()

    def meet(self, student, teacher) -> None:
        if teacher.is_student and self.teacher_taps == self.student_taps:
            raise ValueError(
                f"{self.where}: the student's {_list(self.student_taps)} would be its own target, "
                "which teaches nothing; give another teacher_tap, or teacher='ema'"
            )

    def prepare(self, rehearsal) -> None:
        ours = rehearsal.student_tensors(self)
        theirs = rehearsal.teacher_tensors(self)
        if len(ours) != len(theirs):
            raise ValueError(
                f'{self.where}: the student gives {len(ours)} tensors at {_list(self.student_taps)}'
                f', the teacher {len(theirs)} at {_list(self.teacher_taps)}; pick the same levels '
                'with [i:j]'
            )
        self._check_context(rehearsal)
        canvas = rehearsal.inputs.shape[-2:]
        self._grids = [TokenGrid(x, canvas) for x in (*ours, *theirs)]
        ours, theirs = self._as_maps(ours, theirs, canvas)
        adapted = []
        for mine, other in zip(ours, theirs):
            self.adapters.append(self._fit(mine, other))
            self.shapes.append(f'{shape_of(mine)} -> {shape_of(other)}')
            with torch.no_grad():
                adapted.append(_adapt(self.adapters[-1].to(mine.device), mine, other))
        if self._takes_levels:
            if isinstance(self.weight, list):
                raise ValueError(
                    f'{self.where}: weight={self.weight} must be one number: '
                    f'{type(self._loss).__name__} takes all levels together'
                )
            pairs = [(adapted, theirs)]
        else:
            self.weights(len(ours))
            pairs = list(zip(adapted, theirs))
        known = {}
        if 'num_classes' in self._asks:
            known['num_classes'] = rehearsal.family.num_classes(rehearsal.model)
        for pair in pairs:
            loss = copy.deepcopy(self._loss)
            if hasattr(loss, 'prepare'):
                try:
                    loss.prepare(*pair, **known)
                except ValueError as error:
                    raise ValueError(f'{self.where}: {error}') from error
            self.losses.append(loss)
        del self._loss

    def _check_context(self, rehearsal) -> None:
        family, teacher = rehearsal.family, rehearsal.teachers[self.teacher].family
        for what, part in (('loss', self._loss), ('region', self.region)):
            for name in getattr(part, 'asks', ()):
                who, knows = ('teacher', teacher) if name == 'scores' else ('student', family)
                if name not in knows.gives:
                    raise ValueError(
                        f'{self.where}: {type(part).__name__} asks for {name}, which the {who} '
                        f'{knows.kind} does not give; take another {what}'
                    )

    def _fit(self, mine: Tensor, other: Tensor) -> torch.nn.Module:
        shapes = f'student {tuple(mine.shape)}, teacher {tuple(other.shape)}'
        if mine.dim() != 4 or other.dim() != 4:
            raise ValueError(
                f'{self.where}: features must be [B, C, H, W] maps ({shapes}); tap another module'
            )
        if self._adapter is None:
            sizes = mine.shape[-2:] == other.shape[-2:]
            if not sizes or (mine.shape[1] != other.shape[1] and not self._any_channels):
                raise ValueError(
                    f"{self.where}: shapes differ ({shapes}) and adapter=None; use adapter='auto'"
                )
            return torch.nn.Identity()
        ratios = [max(a, b) % min(a, b) for a, b in zip(mine.shape[-2:], other.shape[-2:])]
        directions = {a >= b for a, b in zip(mine.shape[-2:], other.shape[-2:]) if a != b}
        if any(ratios) or len(directions) > 1:
            raise ValueError(
                f'{self.where}: no whole ratio joins the sizes ({shapes}); tap stages of equal or '
                'whole-multiple stride'
            )
        cfg = dict(type='Project') if self._adapter == 'auto' else self._adapter
        wanted = mine if self._adapter == 'auto' and self._any_channels else other
        channels = dict(in_channels=mine.shape[1], out_channels=wanted.shape[1])
        return build(cfg, f'{self.where}: adapter', **channels)

    def forward(self, lesson) -> dict[str, Tensor]:
        ours = lesson.tap(self.name, self.student_taps)
        capture = lesson.teacher(self.teacher).capture
        theirs = [x for tap in self.teacher_taps for x in capture.read(tap)]
        ours, theirs = self._as_maps(ours, theirs, lesson.inputs.shape[-2:])
        ours = [_adapt(a, x, y) for a, x, y in zip(self.adapters, ours, theirs, strict=True)]
        with full_precision(lesson.inputs):
            ours, theirs = [x.float() for x in ours], [x.float() for x in theirs]
            asked = [self._context(lesson, tuple(x.shape[-2:])) for x in theirs]
            if self._takes_levels:
                context = {
                    name: [x.get(name) for x in asked] if name in _PER_LEVEL else value
                    for name, value in asked[0].items()
                }
                return dict(loss=self.weight * self.losses[0](ours, theirs, **context))
            total = 0.0
            for mine, other, context, loss, weight in zip(
                ours, theirs, asked, self.losses, self.weights(len(ours)), strict=True
            ):
                total = total + weight * loss(mine, other, **context)
        return dict(loss=total)

    def _as_maps(self, ours: list[Tensor], theirs: list[Tensor], canvas):
        """Tokens of vision transformers as maps."""
        maps = [grid(x, canvas) for grid, x in zip(self._grids, (*ours, *theirs), strict=True)]
        return maps[: len(ours)], maps[len(ours) :]

    def _context(self, lesson, size) -> dict:
        context = lesson.context(self._asks, size, self.teacher)
        mask = lesson.valid_cells(size)
        if self.region is not None:
            weights = self.region(lesson, size, self.teacher)
            mask = weights if mask is None else weights * mask
        return context if mask is None else dict(context, mask=mask)


def _adapt(adapter: torch.nn.Module, mine: Tensor, other: Tensor) -> Tensor:
    if isinstance(adapter, torch.nn.Identity):
        return mine
    return adapter(mine, tuple(other.shape[-2:]))


def _list(taps) -> str:
    return ', '.join(tap.address for tap in taps)
