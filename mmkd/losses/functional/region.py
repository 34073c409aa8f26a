"""Squared differences inside objects and outside (DeFeat), or by the teacher's scores (FRS)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .cells import cells_in_boxes, counting_cells, divided, in_cells
from .common import full_precision, mean_rows_of, row_weight
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
    """Half the mean squared difference inside objects, and outside (DeFeat: CVPR 2021).

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


@partial(full_precision, any_channels=True)
def frs_loss(
    student: Tensor,
    teacher: Tensor,
    scores: Tensor,
    adapt: Callable[[Tensor], Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    """Squared difference summed over channels, averaged by the teacher's scores (FRS: 2021).

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        scores: [B, 1, H, W], the teacher's highest class score in each cell.
        adapt: The student's map -> a map like the teacher's.
        mask: Weights of cells, beside the scores; where it is 0 the student gives 0.

    Returns:
        Scalar, in squared units of the feature; divided by the sum of the weights, averaged over
        ranks.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('frs_loss', student, teacher, mask)
    weight = row_weight(student, scores).masked_fill(weight == 0, 0) * weight
    gap = (adapt(student) - teacher).square().sum(1, keepdim=True)
    return divided((gap * weight).sum(), reduce_mean(weight.sum()))


@full_precision
def frs_class_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
) -> Tensor:
    """BCE to the teacher's scores, summed over classes, weighted by each row's highest (FRS).

    Args:
        student: Logits before a sigmoid, [M, K] (or [N, K, ...]).
        teacher: Like student.
        weight: [M] or [M, 1] ([N, ...] or [N, 1, ...]), beside the scores.
        avg_factor: Divisor; None: the sum of the weights, averaged over ranks.

    Returns:
        Scalar, in nats; at equality the teacher's own entropy is left.

    Raises:
        ValueError: If shapes do not fit.
    """
    richness = teacher.amax(1, keepdim=True).sigmoid()
    if weight is not None:
        weight = row_weight(student, weight)
        richness = richness.masked_fill(weight == 0, 0) * weight
    if avg_factor is None:
        avg_factor = reduce_mean(richness.sum())

    def rule(student: Tensor, teacher: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(
            student, teacher.sigmoid(), reduction='none'
        )

    return mean_rows_of(rule, student, teacher, richness, avg_factor)
