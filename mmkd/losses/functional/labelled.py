"""Losses between class logits that treat the labelled class apart.

A label is [N, ...], the index of the class of each row of [N, K, ...]; rows whose label is none of
0 .. K - 1 (-1: ignored) are out. What a softmax gives the labelled class y against all others
depends on ``z_y - log sum_{i != y} exp z_i`` alone, so there is no logarithm of a sum that may
have underflown, and no large number to be subtracted from the labelled logit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import exclude, full_precision, mean_rows_of, row_weight


def labelled_rows(student: Tensor, label: Tensor) -> Tensor:
    """Which rows of [N, K, ...] have a label among the K classes, bool [N, ...].

    Raises:
        ValueError: If the label is not one number a row.
    """
    rows = (student.shape[0], *student.shape[2:])
    if label.shape != rows:
        raise ValueError(
            f'label of shape {tuple(label.shape)} does not fit predictions of shape '
            f'{tuple(student.shape)}; give class indices {rows}'
        )
    return (label >= 0) & (label < student.shape[1])


@full_precision
def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    alpha: float = 1.0,
    beta: float = 0.25,
    tau: float = 1.0,
) -> Tensor:
    """Decoupled KD: ``tau^2 * (alpha * TCKD + beta * NCKD)`` (Zhao et al., CVPR 2022).

    TCKD is KL(teacher || student) of (p_y, 1 - p_y), NCKD that of the softmax over the other
    classes. KL over all classes is TCKD + (1 - p_y of the teacher) * NCKD.

    Args:
        student: Logits [N, K, ...].
        teacher: Logits [N, K, ...].
        label: [N, ...].
        weight: [N, ...] or [N, 1, ...].
        avg_factor: Divisor; None: the number of labelled rows.
        alpha: Weight of the labelled class.
        beta: Weight of the others.
        tau: Temperature.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If shapes do not fit.
    """

    def rule(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        (gap_s, log_s), (gap_t, log_t) = (_apart(x / tau, label) for x in (student, teacher))
        yes = gap_t.sigmoid() * (F.logsigmoid(gap_t) - F.logsigmoid(gap_s))
        no = (-gap_t).sigmoid() * (F.logsigmoid(-gap_t) - F.logsigmoid(-gap_s))
        others = (log_t.exp() * (log_t - log_s)).sum(dim=1, keepdim=True)
        return alpha * (yes + no) + beta * others

    return _mean_labelled(rule, student, teacher, label, weight, avg_factor, scale=tau**2)


@full_precision
def nkd_loss(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    gamma: float = 1.5,
    tau: float = 1.0,
) -> Tensor:
    """Normalised KD (Yang et al., ICCV 2023): two cross-entropies with the teacher.

    ``- p_y^t log p_y^s - gamma * tau^2 * sum_{i != y} q_i^t log q_i^s``; p is the softmax at
    temperature 1, q the softmax over the other classes at tau. The smallest value is not 0.

    Args:
        student: Logits [N, K, ...].
        teacher: Logits [N, K, ...].
        label: [N, ...].
        weight: [N, ...] or [N, 1, ...].
        avg_factor: Divisor; None: the number of labelled rows.
        gamma: Weight of the other classes.
        tau: Their temperature.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If shapes do not fit.
    """

    def rule(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        (gap_s, log_s), (gap_t, log_t) = (_apart(x, label) for x in (student, teacher))
        own = -gap_t.sigmoid() * F.logsigmoid(gap_s)
        if tau != 1:
            log_s, log_t = (_apart(x / tau, label)[1] for x in (student, teacher))
        return own - gamma * tau**2 * (log_t.exp() * log_s).sum(dim=1, keepdim=True)

    return _mean_labelled(rule, student, teacher, label, weight, avg_factor)


@full_precision
def ofa_loss(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    eps: float = 1.0,
) -> Tensor:
    """Cross-entropy with the teacher, the label's class boosted (OFA-KD: Hao et al., NeurIPS 2023).

    ``- sum_k [(p_k^t + [k = y])^eps - [k = y]] log p_k^s``. The smallest value is not 0.

    Args:
        student: Logits [N, K, ...].
        teacher: Logits [N, K, ...].
        label: [N, ...].
        weight: [N, ...] or [N, 1, ...].
        avg_factor: Divisor; None: the number of labelled rows.
        eps: Exponent; at 1 the label plays no part.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If shapes do not fit.
    """

    def rule(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        own = torch.zeros_like(teacher).scatter_(1, label, 1.0)
        shares = (teacher.softmax(dim=1) + own).pow(eps) - own
        return -(shares * student.log_softmax(dim=1)).sum(dim=1, keepdim=True)

    return _mean_labelled(rule, student, teacher, label, weight, avg_factor)


def _apart(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The log-odds of the labelled class [N, 1, ...], log-softmax of the others [N, K, ...].

    There the labelled class has probability 0.
    """
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, label, True)
    others = exclude(logits, own)
    gap = logits.gather(1, label) - others.logsumexp(dim=1, keepdim=True)
    return gap, others.log_softmax(dim=1)


def _mean_labelled(
    rule, student: Tensor, teacher: Tensor, label: Tensor, weight, avg_factor, scale: float = 1.0
) -> Tensor:
    known = labelled_rows(student, label).unsqueeze(1)
    weight = known.to(student.dtype) * (1 if weight is None else row_weight(student, weight))
    avg_factor = known.sum() if avg_factor is None else avg_factor
    label = label.unsqueeze(1).clamp(0, max(student.shape[1] - 1, 0))
    return mean_rows_of(rule, student, teacher, weight, avg_factor, scale, label)
