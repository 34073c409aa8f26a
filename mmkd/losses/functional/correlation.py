"""Losses that compare by correlation."""

import torch
from torch import Tensor

from .common import (
    divided,
    full_precision,
    mean_channels_of,
    mean_rows_of,
    row_weight,
    silence,
)

_EPS = 1e-8  # added to the product of the two norms, as in the published code
_CONSTANT = 1e-6  # of its root mean square: what varies less holds rounding errors


def pearson(a: Tensor, b: Tensor, weight: Tensor | None, dims: tuple[int, ...]) -> Tensor:
    """Weighted Pearson correlation over ``dims``, kept with size 1.

    0, without gradient, where either is constant: its slope there has no bound.

    Args:
        a: Any shape.
        b: Like a.
        weight: Broadcast with them and of their size along ``dims``; None: all alike.
        dims: Where to correlate; not empty.
    """

    def summed(x: Tensor) -> Tensor:
        return (x if weight is None else x * weight).sum(dims, keepdim=True)

    count = summed(torch.ones_like(a)) if weight is None else weight.sum(dims, keepdim=True)

    def centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The second pass removes the rounding error of the mean.
        y = x - divided(summed(x), count)
        y = y - divided(summed(y), count)
        square = summed(y.square())
        return y, square, square.detach() > _CONSTANT**2 * summed(x.detach().square())

    (a, square_a, varies_a), (b, square_b, varies_b) = centred(a), centred(b)
    varies = varies_a & varies_b
    norms = [torch.where(varies, x, 1.0).sqrt() for x in (square_a, square_b)]
    return torch.where(varies, summed(a * b) / (norms[0] * norms[1] + _EPS), 0.0)


@full_precision
def dist_loss(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    inter_loss_weight: float = 1.0,
    intra_loss_weight: float = 1.0,
    tau: float = 1.0,
    activation: str = 'softmax',
) -> Tensor:
    """Correlation of probabilities across classes and across rows (DIST: NeurIPS 2022).

    ``tau^2 * (inter * mean_rows(1 - rho over classes) + intra * mean_classes(1 - rho over rows))``.

    Args:
        student: Logits [N, K, ...].
        teacher: Logits [N, K, ...].
        weight: [N, ...] or [N, 1, ...]; in the second part it weighs the means, variances and
            covariances.
        avg_factor: Divisor of the first part; None: the number of rows.
        inter_loss_weight: Weight of the first part.
        intra_loss_weight: Weight of the second.
        tau: Temperature.
        activation: 'softmax' over dim 1, or 'sigmoid'.

    Returns:
        Scalar, without unit.

    Raises:
        ValueError: If shapes do not fit.
    """
    weight = torch.ones_like(student[:, :1]) if weight is None else row_weight(student, weight)

    def shares(x: Tensor) -> Tensor:
        return (x / tau).softmax(1) if activation == 'softmax' else (x / tau).sigmoid()

    def across_classes(student: Tensor, teacher: Tensor) -> Tensor:
        return 1 - pearson(shares(student), shares(teacher), None, (1,))

    def across_rows(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        return 1 - pearson(a, b, weight, (0, *range(2, a.dim())))

    loss = student.new_zeros(())
    if inter_loss_weight:
        inter = mean_rows_of(across_classes, student, teacher, weight, avg_factor)
        loss = loss + inter_loss_weight * inter
    if intra_loss_weight:
        a, b = (shares(x) for x in silence(student, teacher, weight))
        intra = mean_channels_of(across_rows, a, b, weight, avg_factor=1.0)
        loss = loss + intra_loss_weight * intra * (weight.sum() > 0)
    return tau**2 * loss
