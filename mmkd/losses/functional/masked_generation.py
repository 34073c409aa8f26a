"""The teacher's map made of a partly erased one of the student's (MGD, Af-DCD)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .cells import counting_cells, max_pooled
from .common import exclude, full_precision


@full_precision
def mgd_loss(
    student: Tensor,
    teacher: Tensor,
    generate: Callable[[Tensor], Tensor],
    mask: Tensor | None = None,
) -> Tensor:
    """``sum((generate(student) - teacher)^2) / B`` (MGD: Yang et al., ECCV 2022).

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        generate: Erases a part of a map, and makes a map of the rest.
        mask: Weights of cells; where it is 0 the student gives 0 and nothing is compared.

    Returns:
        Scalar, in squared units of the feature.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('mgd_loss', student, teacher, mask)
    return _squares(generate(student), teacher, weight)


@full_precision
def af_dcd_loss(
    student: Tensor,
    teacher: Tensor,
    generate: Callable[[Tensor], Tensor],
    mask: Tensor | None = None,
    feature_weight: float = 2e-6,
    contrast_weight: float = 5e-3,
    **contrast,
) -> Tensor:
    """MGD's squares and a contrast in space and channels (Af-DCD: Fan et al., NeurIPS 2023).

    ``feature_weight * sum((generate(student) - teacher)^2) / B + contrast_weight * contrast``.

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        generate: As in :func:`mgd_loss`.
        mask: As in :func:`mgd_loss`.
        feature_weight: Of the squared differences.
        contrast_weight: Of the contrast.
        **contrast: See :func:`dense_contrast`.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('af_dcd_loss', student, teacher, mask)
    generated = generate(student)
    return feature_weight * _squares(generated, teacher, weight) + contrast_weight * dense_contrast(
        generated, teacher, weight, **contrast
    )


def _squares(made: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    return ((made - teacher).square() * weight).sum() / max(len(made), 1)


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
    student, teacher = (max_pooled(x, mask, pool) for x in (student, teacher))
    weight = max_pooled(mask, mask, pool)
    width = -(-student.shape[1] // groups)
    ours, theirs = (_tokens(x, patch, width) for x in (student, teacher))
    weights = _tokens(weight, patch, 1)[..., 0]  # [B * patches, cells]
    groups = ours.shape[1] // patch**2
    weights = weights.repeat_interleave(groups, 1)  # a token's cell comes before its group
    group = torch.arange(ours.shape[1], device=ours.device) % groups
    out = (group == group[:, None]).fill_diagonal_(False) | (weights == 0)[:, None]
    logits = exclude(torch.cdist(ours, theirs, p=1) / -tau, out)
    rows = torch.logsumexp(logits, 2) - logits.diagonal(dim1=1, dim2=2)
    return (rows * weights).sum() / max(weight.numel(), 1)


def _tokens(x: Tensor, patch: int, width: int) -> Tensor:
    """[B, C, H, W] as [B * patches, cells * groups, width], padded with zeros."""
    bottom, right, more = -x.shape[2] % patch, -x.shape[3] % patch, -x.shape[1] % width
    x = F.pad(x, (0, right, 0, bottom, 0, more))
    batch, channels, height, breadth = x.shape
    down, across = height // patch, breadth // patch
    x = x.view(batch, channels, down, patch, across, patch).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(batch * down * across, patch**2 * (channels // width), width)
