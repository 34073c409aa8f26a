"""What queries that predict a class and a mask each say of pixels, and of one another."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import check_layout, full_precision, mean_rows_of, promote, row_weight

_LEAST = 1e-6  # of a class's sum; where no query claims a pixel all classes are alike


def semantic_logits(classes: Tensor, masks: Tensor) -> Tensor:
    """Collapse queries into class logits of each pixel: ``log sum_q softmax(c_q)_k sigmoid(m_q)``.

    The last class, no object, is dropped after the softmax. A softmax over k of what is returned
    is the collapse divided by its sum over classes, the semantic inference of MaskFormer (Cheng
    et al., NeurIPS 2021) as a distribution. Computed in fp32 outside autocast.

    Args:
        classes: Logits [B, Q, K + 1].
        masks: Logits [B, Q, H, W].

    Returns:
        [B, K, H, W].
    """
    with torch.autocast(device_type=classes.device.type, enabled=False):
        shares = promote(classes).softmax(dim=-1)[..., :-1]
        sums = torch.einsum('bqk,bqhw->bkhw', shares, promote(masks).sigmoid())
        return (sums + _LEAST).log()


@torch.no_grad()
def matching_costs(
    classes: Tensor,
    points: Tensor,
    teacher_classes: Tensor,
    teacher_points: Tensor,
    score: Tensor,
    weights: tuple[float, float, float] = (2.0, 5.0, 5.0),
) -> Tensor:
    """What it costs to pair each of a student's queries with each of a teacher's.

    KL of the classes, and at the sampled points binary KL (mean) and dice of the masks; the masks
    count by the teacher's score, since those of no object are arbitrary. 0 between equal queries.

    Args:
        classes: Logits [B, Q, K + 1].
        points: Mask logits [B, Q, P].
        teacher_classes: [B, Q', K + 1].
        teacher_points: [B, Q', P].
        score: How sure the teacher is of an object, [B, Q'].
        weights: Of classes, binary KL and dice (Mask2Former: Cheng et al., CVPR 2022).

    Returns:
        [B, Q, Q'].
    """
    log_s, log_t = classes.log_softmax(dim=-1), teacher_classes.log_softmax(dim=-1)
    shares = log_t.exp()
    divergence = (shares * log_t).sum(-1)[:, None] - log_s @ shares.mT
    ours, theirs = points.sigmoid(), teacher_points.sigmoid()
    cross = F.softplus(points).sum(-1, keepdim=True) - points @ theirs.mT
    entropy = (F.softplus(teacher_points) - teacher_points * theirs).sum(-1)
    binary = (cross - entropy[:, None]) / max(points.shape[-1], 1)
    squares = ours.square().sum(-1, keepdim=True) + theirs.square().sum(-1)[:, None]
    dice = 1 - (2 * ours @ theirs.mT + 1) / (squares + 1)
    on_classes, on_binary, on_dice = weights
    return on_classes * divergence + score[:, None] * (on_binary * binary + on_dice * dice)


@full_precision
def dice_kd_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
) -> Tensor:
    """``1 - (2 sum ab + 1) / (sum a^2 + sum b^2 + 1)`` of two masks' sigmoids a and b.

    Args:
        student: Mask logits [M, P], a row per mask.
        teacher: Like student.
        weight: [M] or [M, 1].
        avg_factor: Divisor; None: the number of rows.

    Returns:
        Scalar between 0 and 1, where weights are.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('dice_kd_loss', student, 2, '[M, P]')
    if weight is not None:
        weight = row_weight(student, weight)

    def rule(student: Tensor, teacher: Tensor) -> Tensor:
        ours, theirs = student.sigmoid(), teacher.sigmoid()
        both = (ours * theirs).sum(dim=1, keepdim=True)
        squares = (ours.square() + theirs.square()).sum(dim=1, keepdim=True)
        return 1 - (2 * both + 1) / (squares + 1)

    return mean_rows_of(rule, student, teacher, weight, avg_factor)
