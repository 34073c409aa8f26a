"""Losses between class or bin logits.

All sum over dim 1, the axis of the distribution, and divide the sum over rows by ``avg_factor``
(None: the number of rows). ``weight`` is [N, ...] or [N, 1, ...]; rows with weight 0 are out
whatever they hold.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import check_layout, full_precision, mean_rows_of, row_weight


@full_precision
def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    tau: float = 1.0,
) -> Tensor:
    """Softmax KL(teacher || student) times tau^2 (Hinton et al., 2015).

    Args:
        student: Logits [N, K, ...].
        teacher: Logits [N, K, ...].
        weight: [N, ...] or [N, 1, ...].
        avg_factor: Divisor; None: the number of rows.
        tau: Temperature.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If shapes do not fit.
    """
    if weight is not None:
        weight = row_weight(student, weight)

    def rule(student: Tensor, teacher: Tensor) -> Tensor:
        log_s = F.log_softmax(student / tau, dim=1)
        log_t = F.log_softmax(teacher / tau, dim=1)
        return (log_t.exp() * (log_t - log_s)).sum(dim=1, keepdim=True)

    return mean_rows_of(rule, student, teacher, weight, avg_factor, scale=tau**2)


@full_precision
def binary_kl_divergence(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    tau: float = 1.0,
) -> Tensor:
    """Bernoulli KL(teacher || student) of each class on its own, times tau^2.

    Args:
        student: Logits before a sigmoid, [M, K] (or [N, K, ...]).
        teacher: Like student.
        weight: [M], [M, 1] or [M, K] ([N, ...], [N, 1, ...] or [N, K, ...]).
        avg_factor: Divisor; None: the number of rows.
        tau: Temperature.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If shapes do not fit.
    """
    if weight is not None:
        weight = row_weight(student, weight, per_element=True)

    def rule(student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = student / tau, teacher / tau
        # In log-sigmoids: BCE minus the teacher's entropy cancels badly for confident teachers.
        yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
        no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
        return yes + no

    return mean_rows_of(rule, student, teacher, weight, avg_factor, scale=tau**2)


@full_precision
def kd_quality_focal_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    beta: float = 1.0,
) -> Tensor:
    """|q_s - q_t|^beta * BCE(q_s, q_t), q = sigmoid(logits) (CrossKD: Wang et al., CVPR 2024).

    The modulating factor has a gradient too, as in the published method. beta=0 gives BCE.

    Args:
        student: Logits before a sigmoid, [M, K] (or [N, K, ...]).
        teacher: Like student.
        weight: [M], [M, 1] or [M, K] ([N, ...], [N, 1, ...] or [N, K, ...]).
        avg_factor: Divisor; None: the number of rows.
        beta: Exponent of the modulating factor.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    if weight is not None:
        weight = row_weight(student, weight, per_element=True)

    def rule(student: Tensor, teacher: Tensor) -> Tensor:
        target = teacher.sigmoid()
        values = F.binary_cross_entropy_with_logits(student, target, reduction='none')
        if beta == 0:
            return values
        gap = (student.sigmoid() - target).abs()
        if beta == 1:
            return gap * values
        # For beta < 1 the power's slope at 0 is infinite; equal predictions give 0 without one.
        apart = gap > 0
        return torch.where(apart, torch.where(apart, gap, 1.0).pow(beta) * values, 0.0)

    return mean_rows_of(rule, student, teacher, weight, avg_factor)


def ld_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    tau: float = 10.0,
) -> Tensor:
    """Softmax KL over the bins of a box side, summed over bins, times tau^2 (LD: CVPR 2022).

    Args:
        student: Bin logits [M, bins], a row per box side.
        teacher: Like student.
        weight: [M] or [M, 1].
        avg_factor: Divisor; None: the number of rows.
        tau: Temperature.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('ld_loss', student, 2, '[M, bins]')
    return kl_divergence(student, teacher, weight, avg_factor, tau)
