"""Masked generation with a contrast in space and channels (Af-DCD: Fan et al., NeurIPS 2023)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import check_layout, full_precision, row_weight, silence


@full_precision
def af_dcd_loss(
    student: Tensor,
    teacher: Tensor,
    generate: Callable[[Tensor], Tensor],
    keep: Tensor,
    mask: Tensor | None = None,
    feature_weight: float = 2e-6,
    contrast_weight: float = 5e-3,
    **contrast,
) -> Tensor:
    """``feature_weight * sum((generated - teacher)^2) / B + contrast_weight * contrast``.

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        generate: Makes the map that is compared of the student's, of which only ``keep`` is left.
        keep: [B, 1, H, W], 1 or 0.
        mask: Weights of cells; where it is 0 the student gives 0 and nothing is compared.
        feature_weight: Of the squared differences.
        contrast_weight: Of the contrast.
        **contrast: See :func:`dense_contrast`.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('af_dcd_loss', student, 4, '[B, C, H, W]')
    if student.numel() == 0:
        return student.sum()
    mask = torch.ones_like(student[:, :1]) if mask is None else row_weight(student, mask)
    student, teacher = silence(student, teacher, mask)
    generated = generate(student * keep.to(student.dtype))
    squares = ((generated - teacher).square() * mask).sum() / student.shape[0]
    value = dense_contrast(generated, teacher, mask, **contrast)
    return feature_weight * squares + contrast_weight * value


@full_precision
def dense_contrast(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    pool: int = 4,
    patch: int = 4,
    groups: int = 16,
    tau: float = 0.07,
) -> Tensor:
    """Cross entropy of finding a token's own teacher among those of other channels in its patch.

    Both maps are max-pooled and cut into patches of ``patch x patch`` cells, their channels into
    groups: a token is one group in one cell. Similarity is -L1 / tau; the positive is the teacher's
    token of the same cell and group, the negatives are the patch's tokens of all other groups.
    Maps that do not divide are padded, with cells that are in no sum; a last group that is narrower
    ends in zeros.

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        mask: [B, 1, H, W], weights of cells; a pooled cell has the largest of its own.
        pool: Side of the max pooling; 1: none.
        patch: Side of a patch in pooled cells.
        groups: How many groups at most; they are of equal width.
        tau: Temperature.

    Returns:
        Scalar, in nats: summed over tokens, divided by B and the number of pooled cells.
    """
    lowest = torch.finfo(student.dtype).min
    weight = F.max_pool2d(mask, pool, ceil_mode=True)
    student, teacher = (
        F.max_pool2d(x.masked_fill(mask == 0, lowest), pool, ceil_mode=True).masked_fill(
            weight == 0, 0
        )
        for x in (student, teacher)
    )
    width = -(-student.shape[1] // groups)
    ours, theirs = (_tokens(x, patch, width) for x in (student, teacher))
    weights = _tokens(weight, patch, 1)[..., 0]  # [B * patches, cells]
    groups = ours.shape[1] // patch**2
    weights = weights.repeat_interleave(groups, 1)  # a token's cell comes before its group
    group = torch.arange(ours.shape[1], device=ours.device) % groups
    out = (group == group[:, None]).fill_diagonal_(False) | (weights == 0)[:, None]
    logits = (torch.cdist(ours, theirs, p=1) / -tau).masked_fill(out, lowest)
    rows = torch.logsumexp(logits, 2) - logits.diagonal(dim1=1, dim2=2)
    return (rows * weights).sum() / (weight.shape[0] * weight.shape[2:].numel())


def _tokens(x: Tensor, patch: int, width: int) -> Tensor:
    """[B, C, H, W] as [B * patches, cells * groups, width], padded with zeros."""
    bottom, right, more = -x.shape[2] % patch, -x.shape[3] % patch, -x.shape[1] % width
    x = F.pad(x, (0, right, 0, bottom, 0, more))
    batch, channels, height, breadth = x.shape
    x = x.view(batch, channels, height // patch, patch, breadth // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(-1, patch**2 * (channels // width), width)
