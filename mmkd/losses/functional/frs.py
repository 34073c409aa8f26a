"""Differences weighted by the teacher's scores (FRS: Du et al., NeurIPS 2021)."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from .cells import counting_cells
from .common import divided, full_precision, mean_rows_of, row_weight
from .reduce import reduce_mean


@partial(full_precision, any_channels=True)
def frs_loss(
    student: Tensor,
    teacher: Tensor,
    scores: Tensor,
    adapt: Callable[[Tensor], Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    """Squared difference summed over channels, averaged by the teacher's scores.

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
    """BCE to the teacher's scores, summed over classes, weighted by each row's highest.

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
        return F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction='none')

    return mean_rows_of(rule, student, teacher, richness, avg_factor)
