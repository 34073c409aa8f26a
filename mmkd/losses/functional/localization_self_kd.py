"""A detector's last word on boxes teaches its earlier ones."""

import torch
from torch import Tensor

from .common import check_layout, divided, row_weight
from .logit import kl_divergence
from .reduce import reduce_mean


def localization_self_kd(
    student: Tensor,
    teacher: Tensor,
    matched: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    tau: float = 5.0,
) -> Tensor:
    """Softmax KL over the bins of a box side times tau^2, matched and unmatched rows apart.

    With M the mean of ``weight * tau^2 * KL(teacher || student)`` over the n rows of a group::

        (sqrt(n_matched) * M_matched + sqrt(n_unmatched) * M_unmatched)
        / (sqrt(n_matched) + sqrt(n_unmatched))

    Args:
        student: Bin logits [M, bins], a row per box side.
        teacher: Like student.
        matched: [M] or [M, 1], bool; which rows belong to a labelled object. None: all.
        weight: [M] or [M, 1]; leaves the two n alone.
        mask: [M] or [M, 1], bool; rows that count.
        tau: Temperature.

    Returns:
        Scalar, in nats. The two n are averaged over ranks.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('localization_self_kd', student, 2, '[M, bins]')
    rows = row_weight(student, student.new_ones(len(student)) if mask is None else mask)
    of_objects = rows if matched is None else rows * row_weight(student, matched)
    groups = of_objects, rows - of_objects
    roots = reduce_mean(torch.stack([group.sum() for group in groups])).sqrt()
    # a mean times the root of its n is a sum over the root of its n
    factor = sum(divided(group, root) for group, root in zip(groups, roots))
    if weight is not None:
        factor = factor * row_weight(student, weight)
    return kl_divergence(student, teacher, factor, roots.sum(), tau)
