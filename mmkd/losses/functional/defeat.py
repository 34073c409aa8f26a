"""Squared differences inside objects and outside (DeFeat: Guo et al., CVPR 2021)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .cells import cells_in_boxes, counting_cells, in_cells
from .common import divided, full_precision, row_weight
from .reduce import reduce_mean


@partial(full_precision, any_channels=True)
def defeat_loss(
    student: Tensor,
    teacher: Tensor,
    inside: Tensor,
    adapt: Callable[[Tensor], Tensor],
    mask: Tensor | None = None,
    foreground: float = 3.0,
    background: float = 12.0,
) -> Tensor:
    """Half the mean squared difference inside objects, and outside.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        inside: [B, 1, H, W], 1 inside objects, 0 outside.
        adapt: The student's map -> a map like the teacher's.
        mask: Weights of cells; where it is 0 the student gives 0 and nothing is compared.
        foreground: What the mean inside is multiplied by.
        background: What the mean outside is multiplied by.

    Returns:
        Scalar, in squared units of the feature; each mean is over weights averaged over ranks.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('defeat_loss', student, teacher, mask)
    inside = row_weight(student, inside)
    gap = (adapt(student) - teacher).square().mean(1, keepdim=True)
    parts = torch.stack([inside * weight, (1 - inside) * weight])
    means = divided((gap * parts).flatten(1).sum(1), reduce_mean(parts.flatten(1).sum(1)))
    return (means * means.new_tensor([foreground, background])).sum() / 2


def boxes_by_level(
    boxes: list[Tensor], levels: int, finest_scale: float = 56.0
) -> list[list[Tensor]]:
    """The boxes of each level of a pyramid, by image, as FPN's RoIs are assigned.

    Level l has those with ``finest_scale * 2^l <= sqrt(area) < finest_scale * 2^(l + 1)``; the
    first has the smaller ones too, the last the larger ones.

    Args:
        boxes: By image [n, 4], corners in pixels.
        levels: How many levels there are.
        finest_scale: In pixels.

    Returns:
        By level, by image, [m, 4].
    """
    found = []
    for own in boxes:
        sides = (own[:, 2:] - own[:, :2]).clamp(min=0)
        octave = (sides.prod(1).sqrt() / finest_scale).clamp(min=1e-6).log2().floor()
        found.append(octave.clamp(0, levels - 1))
    return [[own[octave == level] for own, octave in zip(boxes, found)] for level in range(levels)]


@torch.no_grad()
def inside_boxes(boxes: list[Tensor], canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """1 in cells from the floor of a box's first corner to that of its last, which is left out.

    A box has a cell at least.

    Args:
        boxes: By image [n, 4], corners in pixels.
        canvas: Height and width of the padded batch in pixels.
        size: (H, W) of the map.

    Returns:
        [B, 1, H, W].
    """
    device = boxes[0].device if boxes else None
    inside = torch.zeros(len(boxes), 1, *size, device=device)
    for image, own in zip(inside, boxes):
        corners = in_cells(own, canvas, size).floor()
        first, last = corners[:, :2], corners[:, 2:] - 1
        image.copy_(cells_in_boxes(first, last.maximum(first), size).any(0, keepdim=True))
    return inside
