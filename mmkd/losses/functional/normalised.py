"""Losses between maps [B, C, H, W] after division by an L2 norm; masks are [B, (1,) H, W]."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import check_layout, full_precision, mean_rows_of, row_weight
from .directions import unit


@partial(full_precision, any_channels=True)
def pairwise_affinity_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, scale: float = 0.5
) -> Tensor:
    """Squared difference of the cosines between max-pooled nodes (SKD: Liu et al., CVPR 2019).

    ``1 / B * sum_images 1 / n^2 * sum_ij (G_t - G_s)_ij^2``, G = F^T F of the n nodes, each divided
    by its detached L2 norm + 1e-8.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        mask: Cells where it is 0 are out of the pooling, nodes without a cell out of n; an image
            with none left adds 0.
        scale: Side of the pooling windows, and their stride, over the map's.

    Returns:
        Scalar, without unit.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('pairwise_affinity_loss', student, 4, '[B, C, H, W]')
    mask = torch.ones_like(student[:, :1]) if mask is None else row_weight(student, mask)
    window = [max(int(side * scale), 1) for side in student.shape[2:]]
    pool = partial(F.max_pool2d, kernel_size=window, stride=window, ceil_mode=True)
    out = mask == 0
    lone = pool((~out).to(student.dtype)) == 0

    def affinity(x: Tensor) -> Tensor:
        nodes = pool(x.masked_fill(out, torch.finfo(x.dtype).min)).masked_fill(lone, 0).flatten(2)
        nodes = nodes / (nodes.detach().norm(dim=1, keepdim=True) + 1e-8)
        return nodes.transpose(1, 2) @ nodes

    count = (~lone).sum((1, 2, 3)).clamp(min=1)
    gap = (affinity(student) - affinity(teacher)).square().sum((1, 2)) / count**2
    return gap.sum() / max(len(gap), 1)


@partial(full_precision, any_channels=True)
def at_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
) -> Tensor:
    """Squared difference of attention maps, mean over cells (AT: Zagoruyko & Komodakis, ICLR 2017).

    An image's map is the mean square over channels, divided by its L2 norm over cells.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        mask: Weights of cells; where it is 0 they are out of the norm too.
        avg_factor: Divisor in cells; None: the sum of the mask, or the number of cells.

    Returns:
        Scalar, without unit.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('at_loss', student, 4, '[B, C, H, W]')
    mask = torch.ones_like(student[:, :1]) if mask is None else row_weight(student, mask)

    def attention(x: Tensor) -> Tensor:
        energy = x.masked_fill(mask == 0, 0).square().mean(dim=1)
        return F.normalize(energy.flatten(1), dim=1)

    gap = (attention(student) - attention(teacher)).square() * mask.flatten(1)
    count = mask.sum() if avg_factor is None else avg_factor
    count = torch.as_tensor(count, dtype=gap.dtype, device=gap.device).detach()
    return gap.sum() / torch.where(count > 0, count, 1.0)


def pool_tokens(x: Tensor, mask: Tensor | None, pool: int) -> Tensor:
    """Means of windows of ``pool`` x ``pool`` cells [B, C, H, W], over the valid ones if masked.

    A last window that reaches beyond the map is the mean of what lies inside.

    Args:
        x: [B, C, H, W].
        mask: [B, 1, H, W] weights.
        pool: Side of the windows and their stride, in cells.
    """
    average = partial(F.avg_pool2d, kernel_size=pool, ceil_mode=True, count_include_pad=False)
    if mask is None:
        return average(x)
    share = average(mask)
    return average(x.masked_fill(mask == 0, 0) * mask) / torch.where(share > 0, share, 1.0)


@full_precision
def cosine_feature_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    avg_factor: Tensor | float | None = None,
    pool: int = 1,
) -> Tensor:
    """1 - cosine between the channel vectors of two tokens, mean over tokens.

    A token whose vector is 0 has no direction: it counts 1, without gradient.

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        mask: Weights of cells.
        avg_factor: Divisor in tokens; None: the sum of the pooled mask, or the number of tokens.
        pool: Side, in cells, of the windows whose mean is a token.

    Returns:
        Scalar, without unit.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('cosine_feature_loss', student, 4, '[B, C, H, W]')
    if mask is not None:
        mask = row_weight(student, mask)
    if pool > 1:
        student, teacher = (pool_tokens(x, mask, pool) for x in (student, teacher))
        mask = None if mask is None else pool_tokens(mask, None, pool)
    if mask is not None and avg_factor is None:
        avg_factor = mask.sum()

    def rule(student: Tensor, teacher: Tensor) -> Tensor:
        return 1 - (unit(student, dim=1) * unit(teacher, dim=1)).sum(dim=1, keepdim=True)

    return mean_rows_of(rule, student, teacher, mask, avg_factor)
