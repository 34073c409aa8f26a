"""Feature distillation at any pair of taps."""

import torch
from torch import Tensor

from mmkd.registry import MODELS, build

from .term import Term, full_precision, parse_taps, shape_of


@MODELS.register_module()
class FeatureKD(Term):
    """Teaches the student's features those of the teacher.

    Args:
        tap: address in the student, or a list of them; each tensor is ``[B, C, H, W]``.
        teacher_tap: address in the teacher; ``None``: the same.
        teacher: which teacher, where several are named.
        adapter: ``'auto'`` (see :class:`mmkd.adapters.Project`), ``None`` where shapes fit as they
            are, or the config of an adapter built with ``in_channels`` and ``out_channels``.
        region: config of a weight map; ignored and padded cells are always out.
        loss: config of a loss with ``forward(student, teacher, mask=None)``.
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
        self.loss = build(loss, 'loss')
        self.region = None if region is None else build(region, 'region')
        self.uses_predictions = getattr(self.region, 'needs_predictions', False)
        self.adapters = torch.nn.ModuleList()

    def prepare(self, rehearsal) -> None:
        ours = rehearsal.student_tensors(self)
        theirs = rehearsal.teacher_tensors(self)
        if len(ours) != len(theirs):
            raise ValueError(
                f'{self.where}: the student gives {len(ours)} tensors at {_list(self.student_taps)}'
                f', the teacher {len(theirs)} at {_list(self.teacher_taps)}; pick the same levels '
                'with [i:j]'
            )
        self.weights(len(ours))
        for mine, other in zip(ours, theirs):
            self.adapters.append(self._fit(mine, other))
            self.shapes.append(f'{shape_of(mine)} -> {shape_of(other)}')

    def _fit(self, mine: Tensor, other: Tensor) -> torch.nn.Module:
        shapes = f'student {tuple(mine.shape)}, teacher {tuple(other.shape)}'
        if mine.dim() != 4 or other.dim() != 4:
            raise ValueError(
                f'{self.where}: features must be [B, C, H, W] maps ({shapes}); tap another module'
            )
        if self._adapter is None:
            if mine.shape != other.shape:
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
        channels = dict(in_channels=mine.shape[1], out_channels=other.shape[1])
        return build(cfg, f'{self.where}: adapter', **channels)

    def forward(self, lesson) -> dict[str, Tensor]:
        ours = lesson.tap(self.name, self.student_taps)
        capture = lesson.teacher(self.teacher).capture
        theirs = [x for tap in self.teacher_taps for x in capture.read(tap)]
        total = 0.0
        for mine, other, adapter, weight in zip(
            ours, theirs, self.adapters, self.weights(len(ours)), strict=True
        ):
            size = tuple(other.shape[-2:])
            if not isinstance(adapter, torch.nn.Identity):
                mine = adapter(mine, size)
            with full_precision(mine):
                total = total + weight * self._compare(mine.float(), other.float(), lesson, size)
        return dict(loss=total)

    def _compare(self, mine: Tensor, other: Tensor, lesson, size) -> Tensor:
        mask = lesson.valid_cells(size)
        if self.region is not None:
            weights = self.region(lesson, size, self.teacher)
            mask = weights if mask is None else weights * mask
        return self.loss(mine, other) if mask is None else self.loss(mine, other, mask=mask)


def _list(taps) -> str:
    return ', '.join(tap.address for tap in taps)
