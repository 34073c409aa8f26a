"""What a dense detector says of each cell, whatever its priors are."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.functional import reduce_mean

from .dense_heads import score_logits


@dataclass
class CellTargets:
    """What a teacher says of the cells of some maps.

    Attributes:
        cls: by map, logits of the shared classes' final scores, the highest over a cell's priors
            ``[B, K, H, W]``.
        valid: by map, 1 at cells that may teach ``[B, 1, H, W]``.
        count: N, ``max(1, mean over ranks of the sum of the highest score over valid cells)``, over
            all maps.
    """

    cls: list[Tensor]
    valid: list[Tensor]
    count: Tensor


@torch.no_grad()
def cell_targets(head: nn.Module, outputs: dict, match, maps, lesson) -> CellTargets:
    """Reads a teacher's scores at the cells of a student's maps, as logits.

    A map without a level of its stride takes the nearest: the highest logits in each cell of a
    finer level, the nearest cell of a coarser one.

    Args:
        head: the teacher's head.
        outputs: its raw outputs by kind.
        match: which classes both know.
        maps: by map, its stride and its size ``(H, W)``.
        lesson: the training step.
    """
    cls, valid = [], []
    for stride, size in maps:
        raw = score_logits(head, outputs)[_nearest_level(head, stride)].float()
        # anchors come before classes; the order of logits is that of their scores
        logits = raw.unflatten(1, (-1, head.cls_out_channels)).amax(1)
        logits = match.teacher(logits, dim=1)
        source = _valid(lesson, logits)
        logits = logits.masked_fill(source == 0, torch.finfo(logits.dtype).min)
        logits, source = _to_size(logits, size), _to_size(source, size)
        cls.append(logits)
        valid.append(source * _valid(lesson, logits))
    total = sum((x.amax(1, keepdim=True).sigmoid() * v).sum() for x, v in zip(cls, valid))
    return CellTargets(cls, valid, reduce_mean(total).clamp(min=1.0))


@torch.no_grad()
def cell_scores(head: nn.Module, outputs: dict, size: tuple[int, int], lesson) -> Tensor:
    """A teacher's highest class score in each cell of a map, ``[B, 1, H, W]``.

    Args:
        head: the teacher's head.
        outputs: its raw outputs by kind.
        size: the map's ``(H, W)``; a size without a level takes the nearest, see above.
        lesson: the training step.
    """
    level = _nearest_level(head, lesson.inputs.shape[-2] / size[0])
    scores = score_logits(head, outputs)[level].float().amax(1, keepdim=True).sigmoid()
    return _to_size(scores, size)


def _nearest_level(head: nn.Module, stride: float) -> int:
    """The level of a head whose stride is that of a map, or nearest to it; of two the finer."""
    strides = [pair[0] for pair in head.prior_generator.strides]
    distances = [abs(math.log2(own / stride)) for own in strides]
    return distances.index(min(distances))


def _valid(lesson, maps: Tensor) -> Tensor:
    mask = lesson.valid_cells(maps.shape[-2:])
    if mask is None:
        return maps.new_ones(maps.shape[0], 1, *maps.shape[-2:])
    return mask.to(maps.dtype)


def _to_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if x.shape[-2] >= size[0] and x.shape[-1] >= size[1]:
        return F.adaptive_max_pool2d(x, size)
    return F.interpolate(x, size, mode='nearest')
