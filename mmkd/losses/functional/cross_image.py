"""What pixels of one image are like in others (CIRKD: Yang et al., CVPR 2022)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .common import check_layout, full_precision, mean_rows_of, row_weight, silence
from .directions import known_weight, membership, pixel_rows, unit
from .normalised import pool_tokens
from .reduce import reduce_mean

_PIECE = 2**24  # similarities at a time


@torch.compiler.disable
@partial(full_precision, any_channels=True)
def cross_image_pixel_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    tau: float = 0.1,
    pool: int = 1,
) -> Tensor:
    """KL of each pixel's softmax over the pixels of one image, mean over pixels and image pairs.

    The softmax is over cosines / tau. All B^2 ordered pairs of the batch count, each image with
    itself too.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        mask: Weights of cells; where it is 0 they are in no softmax either. Each image's pixels
            are averaged by it; an image with none left adds 0.
        tau: Temperature of the cosines.
        pool: Side of the average pooling that comes first.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('cross_image_pixel_loss', student, 4, '[B, C, H, W]')
    weight = torch.ones_like(student[:, :1]) if mask is None else row_weight(student, mask)
    student, teacher = silence(student, teacher, weight)
    if pool > 1:
        student, teacher = (pool_tokens(x, weight, pool) for x in (student, teacher))
        weight = pool_tokens(weight, None, pool)
    weight = weight.flatten(1)
    keys = [unit(pixel_rows(x)) for x in (student, teacher)]
    out = (weight == 0)[:, None]
    images, cells = weight.shape
    step = max(_PIECE // max(weight.numel(), 1), 1)
    total = student.sum() * 0
    for image in range(images):
        rates = weight[image] / weight[image].sum().clamp(min=torch.finfo(weight.dtype).tiny)
        for begin in range(0, cells, step):
            piece = slice(begin, begin + step)
            rows = [x[image, piece] for x in keys]
            # The matrices of a batch are larger than all else of a step: they are made twice.
            total = total + checkpoint(
                _divergence, *rows, *keys, rates[piece], out, tau,
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
    return total / max(images, 1) ** 2


def _divergence(
    student: Tensor, teacher: Tensor, student_keys: Tensor, teacher_keys: Tensor,
    rates: Tensor, out: Tensor, tau: float,
) -> Tensor:  # fmt: skip
    """Weighted sum over rows [n, C] of the KLs to the keys of each image [B, m, C]."""
    # The lowest finite number has probability 0 as -inf has, but no inf - inf in any gradient.
    lowest = torch.finfo(student.dtype).min
    log_s, log_t = (
        F.log_softmax((rows @ keys.transpose(1, 2) / tau).masked_fill(out, lowest), 2)
        for rows, keys in ((student, student_keys), (teacher, teacher_keys))
    )
    return ((log_t.exp() * (log_t - log_s)).sum(2) * rates).sum()


@partial(full_precision, any_channels=True)
def cross_image_memory_loss(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    num_classes: int,
    project: Callable[[Tensor], Tensor],
    recall: Callable[[Tensor, Tensor], list[tuple[Tensor, float]]],
    mask: Tensor | None = None,
    tau: float = 0.1,
    temperature: float = 1.0,
) -> Tensor:
    """KL of each pixel's softmax over remembered keys, times temperature^2, mean over pixels.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        label: [B, H, W]; what is not in 0 ... num_classes - 1 is no class, and out.
        num_classes: K.
        project: Makes [M, C'] of M of the student's pixels [M, C].
        recall: Gets the teacher's pixels as unit vectors [B, H * W, C'] and 1 where they are of a
            class [B, K, H * W], gives sets of unit vectors [n, C'], each with its weight.
        mask: Weights of cells.
        tau: Temperature of the cosines.
        temperature: Of the distributions, on top.

    Returns:
        Scalar, in nats; divided by the sum of the weights, averaged over ranks.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout('cross_image_memory_loss', student, 4, '[B, C, H, W]')
    weight = torch.ones_like(student[:, :1]) if mask is None else row_weight(student, mask)
    weight = known_weight(label, num_classes, weight)
    inside = weight != 0
    theirs = unit(pixel_rows(teacher).masked_fill(~inside[..., None], 0))
    keys = recall(theirs, membership(label, num_classes, weight))

    def rule(student: Tensor, teacher: Tensor) -> Tensor:
        student = unit(student)
        total = torch.zeros_like(student[:, :1])
        for vectors, factor in keys:
            log_s, log_t = (
                F.log_softmax(x @ vectors.T / (tau * temperature), 1) for x in (student, teacher)
            )
            total = total + factor * (log_t.exp() * (log_t - log_s)).sum(1, keepdim=True)
        return total

    return mean_rows_of(
        rule, project(pixel_rows(student)[inside]), theirs[inside], weight[inside][:, None],
        reduce_mean(weight.sum()), scale=temperature**2,
    )  # fmt: skip
