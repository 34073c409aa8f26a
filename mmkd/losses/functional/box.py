"""Overlap of boxes, and the loss made of it. Boxes are [M, 4], x1 y1 x2 y2, in pixels."""

import torch
from torch import Tensor

from .common import check_layout, full_precision, mean_rows_of, row_weight

_MIN_AREA = 1e-6


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``; 0, without gradient, where the whole has no area."""
    solid = whole > _MIN_AREA
    return torch.where(solid, part / torch.where(solid, whole, 1.0), 0.0)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)


def box_iou(a: Tensor, b: Tensor, generalized: bool = False) -> Tensor:
    """IoU of box i in ``a`` with box i in ``b``, or GIoU (Rezatofighi et al., CVPR 2019).

    A box with x2 < x1 or y2 < y1 has no area. Where neither box has one both measures leave out
    what would be 0 / 0.

    Args:
        a: [M, 4].
        b: [M, 4].
        generalized: Subtract the share of the enclosing box that neither covers.

    Returns:
        [M]: IoU in [0, 1], GIoU in (-1, 1].
    """
    inter = _area(torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:]))
    union = _area(a[:, :2], a[:, 2:]) + _area(b[:, :2], b[:, 2:]) - inter
    iou = _ratio(inter, union)
    if not generalized:
        return iou
    enclosing = _area(torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:]))
    return iou - _ratio(enclosing - union, enclosing)


@full_precision
def box_kd_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    generalized: bool = True,
) -> Tensor:
    """1 - GIoU (or 1 - IoU) of the student's box with the teacher's.

    Args:
        student: Decoded boxes [M, 4].
        teacher: Decoded boxes [M, 4].
        weight: [M] or [M, 1].
        avg_factor: Divisor; None: the number of boxes.
        generalized: GIoU instead of IoU.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('box_kd_loss', student, 2, '[M, 4]')
    if student.shape[1] != 4:
        raise ValueError(
            f'box_kd_loss: expected [M, 4], got {tuple(student.shape)}; decode the boxes first'
        )
    if weight is not None:
        weight = row_weight(student, weight)

    def rule(student: Tensor, teacher: Tensor) -> Tensor:
        return 1 - box_iou(student, teacher, generalized)[:, None]

    return mean_rows_of(rule, student, teacher, weight, avg_factor)
