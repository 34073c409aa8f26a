"""How the pixels of a class vary around their mean."""

from functools import partial

import torch
from torch import Tensor

from .common import check_layout, full_precision, row_weight, silence
from .directions import class_means, known_weight, membership, pixel_rows, unit
from .reduce import reduce_mean


@partial(full_precision, any_channels=True)
def ifv_loss(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    num_classes: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over pixels of (V_s - V_t)^2, V = cos(pixel, mean of its class in its image).

    IFVD: Wang et al., ECCV 2020. The mean has a gradient too, as in the official code.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        label: [B, H, W]; what is not in 0 ... num_classes - 1 is no class, and out.
        num_classes: How many there are.
        mask: Weights of cells; where it is 0 they are in no mean either.

    Returns:
        Scalar, without unit; divided by the sum of the weights, averaged over ranks.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('ifv_loss', student, 4, '[B, C, H, W]')
    weight = torch.ones_like(student[:, :1]) if mask is None else row_weight(student, mask)
    weight = known_weight(label, num_classes, weight)
    members = membership(label, num_classes, weight)
    student, teacher = silence(student, teacher, weight.view_as(student[:, :1]))

    def variation(x: Tensor) -> Tensor:
        rows = pixel_rows(x)
        cosines = unit(rows) @ unit(class_means(rows, members)).transpose(1, 2)
        return (cosines * members.transpose(1, 2)).sum(2)

    total = ((variation(student) - variation(teacher)).square() * weight).sum()
    count = reduce_mean(weight.sum())
    return total / torch.where(count > 0, count, 1.0)
