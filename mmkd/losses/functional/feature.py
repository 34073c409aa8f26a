"""Losses between feature maps [B, C, H, W]. A mask is [B, H, W] or [B, 1, H, W]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import (
    check_layout,
    exclude,
    full_precision,
    mean_channels_of,
    mean_rows_of,
    row_weight,
    silence,
)

_MIN_STD = 1e-6


@full_precision
def feature_mse(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
) -> Tensor:
    """Squared difference, mean over channels and cells (FitNets: Romero et al., ICLR 2015).

    Args:
        student: [B, C, H, W] (any [B, C, ...]).
        teacher: Like student.
        weight: Of cells.
        avg_factor: Divisor in cells; None: the number of cells.

    Returns:
        Scalar, in squared units of the feature.

    Raises:
        ValueError: If shapes do not fit.
    """
    if weight is not None:
        weight = row_weight(student, weight)
    scale = 1 / max(student.shape[1], 1)
    return mean_rows_of(lambda s, t: (s - t).square(), student, teacher, weight, avg_factor, scale)


def _standardise(x: Tensor) -> Tensor:
    """Each channel of [B, C, H, W] to mean 0 and unbiased std 1.

    A channel that is constant becomes 0, without gradient: its slope has no bound.
    """
    count = x.numel() // x.shape[1]
    # Standardising ignores a shift. Without it the rounding error of the mean is not small beside
    # the spread of a nearly constant channel of large values.
    x = x - x[:1, :, :1, :1].detach()
    # BatchNorm's kernel: one pass where elementary operations need eight.
    x, _, inverse_std = torch.native_batch_norm(x, None, None, None, None, True, 0.0, _MIN_STD**2)
    varies = (inverse_std.detach() < 0.5**0.5 / _MIN_STD).to(x.dtype)
    scale = ((count - 1) / count) ** 0.5
    return x * (varies * scale)[:, None, None]


def _standardise_valid(x: Tensor, valid: Tensor) -> Tensor:
    """As :func:`_standardise`, over the cells where ``valid`` [B, 1, H, W] is 1; others are 0."""
    dims = (0, 2, 3)
    count = valid.sum()

    def center(y: Tensor) -> Tensor:
        return (y - y.sum(dims, keepdim=True) / count.clamp(min=1)) * valid

    # The second pass removes the rounding error of the mean.
    x = center(center(x * valid))
    variance = x.square().sum(dims, keepdim=True) / (count - 1).clamp(min=1)
    varies = variance > _MIN_STD**2
    return torch.where(varies, x * torch.where(varies, variance, 1.0).rsqrt(), 0.0)


@full_precision
def pkd_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Half the mean squared difference of standardised maps (PKD: Cao et al., NeurIPS 2022).

    Equals (n - 1) / n * (1 - Pearson correlation), averaged over channels, n = valid cells.

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        mask: Weights of cells; mean and std are taken over the cells where it is not 0.

    Returns:
        Scalar, without unit.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('pkd_loss', student, 4, '[B, C, H, W]')
    if mask is None and student.numel():

        def rule(student: Tensor, teacher: Tensor, mask: None) -> Tensor:
            return (_standardise(student) - _standardise(teacher)).square()

        return mean_channels_of(rule, student, teacher, None, None, scale=0.5)
    mask = torch.ones_like(student[:, :1]) if mask is None else row_weight(student, mask)
    valid = (mask != 0).to(student.dtype)

    def masked_rule(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        student, teacher = silence(student, teacher, mask)
        gap = _standardise_valid(student, valid) - _standardise_valid(teacher, valid)
        return gap.square() * mask

    return mean_channels_of(masked_rule, student, teacher, mask, mask.sum(), scale=0.5)


@full_precision
def channel_wise_divergence(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    tau: float = 1.0,
    standardise: bool = False,
) -> Tensor:
    """KL of each channel's softmax over cells, times tau^2 / (B * C) (CWD: Shu et al., ICCV 2021).

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        mask: Cells where it is 0 are out of both softmaxes; an image with none left adds 0.
        tau: Temperature.
        standardise: Give each channel of both mean 0 and std 1 over batch and cells first.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('channel_wise_divergence', student, 4, '[B, C, H, W]')
    if mask is not None:
        mask = row_weight(student, mask)
    elif not student.numel():
        mask = torch.ones_like(student[:, :1])

    def log_probabilities(x: Tensor, mask: Tensor | None) -> Tensor:
        if standardise and mask is None:
            x = _standardise(x)
        elif standardise:
            out = mask == 0
            x = _standardise_valid(x.masked_fill(out, 0), (~out).to(x.dtype))
        x = (x / tau).flatten(2)
        return F.log_softmax(x if mask is None else exclude(x, mask.flatten(2) == 0), 2)

    def rule(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        log_s, log_t = log_probabilities(student, mask), log_probabilities(teacher, mask)
        return log_t.exp() * (log_t - log_s)

    return mean_channels_of(rule, student, teacher, mask, student.shape[0], scale=tau**2)
