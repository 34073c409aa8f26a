"""What a model says of the cells of a map, whatever its priors are."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.functional import reduce_mean

_SILENT = torch.finfo(torch.float16).min  # at and below it a logit says nothing


@dataclass
class CellTargets:
    """What a teacher says of the cells of some maps.

    Attributes:
        cls: by map, logits of the shared classes' final scores ``[B, K, H, W]``.
        valid: by map, 1 at cells that may teach ``[B, 1, H, W]``.
        count: N, ``max(1, mean over ranks of the sum of the highest score over valid cells)``, over
            all maps.
    """

    cls: list[Tensor]
    valid: list[Tensor]
    count: Tensor


@torch.no_grad()
def cell_targets(levels: list[Tensor], match, sizes, lesson) -> CellTargets:
    """Reads a teacher's scores at the cells of a student's maps, as logits.

    A map without a level of its size takes the nearest: the highest logits in each cell of a finer
    level, the nearest cell of a coarser one. The order of logits is that of their scores.

    Args:
        levels: the teacher's class logits by level ``[B, K', H', W']``; cells all of whose logits
            are the lowest that their type has teach nothing.
        match: which classes both know.
        sizes: of each map ``(H, W)``.
        lesson: the training step, asked for valid cells.
    """
    cls, valid = [], []
    for size in sizes:
        raw = _nearest(levels, size).float()
        logits = match.teacher(raw, dim=1)
        source = valid_map(lesson, raw) * (raw.amax(1, keepdim=True) > _SILENT)
        logits = logits.masked_fill(source == 0, torch.finfo(logits.dtype).min)
        cls.append(_at_size(logits, size))
        valid.append(_at_size(source, size) * valid_map(lesson, cls[-1]))
    total = sum((x.amax(1, keepdim=True).sigmoid() * v).sum() for x, v in zip(cls, valid))
    return CellTargets(cls, valid, reduce_mean(total).clamp(min=1.0))


@torch.no_grad()
def cell_scores(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The highest scores ``[B, 1, H, W]`` in the cells of a map, of the map of nearest size."""
    return _at_size(_nearest(maps, size), size)


def pixel_scores(logits: Tensor) -> Tensor:
    """The highest class probability in each cell ``[B, 1, H, W]`` of a segmentor's logits."""
    logits = logits.float()
    scores = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
    return scores.amax(1, keepdim=True)


def valid_map(lesson, like: Tensor) -> Tensor:
    """1 in cells of a map like this that may teach, else 0, in its type ``[B, 1, H, W]``."""
    mask = lesson.valid_cells(like.shape[-2:])
    if mask is None:
        return like.new_ones(like.shape[0], 1, *like.shape[-2:])
    return mask.to(like.dtype)


def _nearest(levels: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The level whose size is that of a map, or nearest to it; of two the finer."""
    distances = [abs(math.log2(x.shape[-2] / size[0])) for x in levels]
    return levels[distances.index(min(distances))]


def _at_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2] >= size[0] and x.shape[-1] >= size[1]:
        return F.adaptive_max_pool2d(x, size)
    return F.interpolate(x, size, mode='nearest')
