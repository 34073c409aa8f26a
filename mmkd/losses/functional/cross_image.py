"""What pixels of one image are like in others (CIRKD: Yang et al., CVPR 2022)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cells import counting_cells, mean_pooled
from .common import divided, exclude, full_precision, mean_rows_of
from .pixels import known_weight, membership, pixel_rows, unit
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
    student, teacher, weight = counting_cells('cross_image_pixel_loss', student, teacher, mask)
    (student, pooled), (teacher, _) = (mean_pooled(x, weight, pool) for x in (student, teacher))
    weight = pooled.flatten(1)
    rates = divided(weight, weight.sum(1, keepdim=True))
    rows = [unit(pixel_rows(x)) for x in (student, teacher)]
    return _Divergences.apply(*rows, rates, tau) / max(len(weight), 1) ** 2


class _Divergences(torch.autograd.Function):
    """Of unit rows [B, N, C]: sum over pairs of images and rows of ``rates * KL``.

    The similarities of a batch are larger than all else of a step. Each piece of them gives its
    part of the value and of the gradient, and is gone.
    """

    @staticmethod
    def forward(ctx, student, teacher, rates, tau):
        images, cells = rates.shape
        out = (rates == 0)[:, None]
        step = max(_PIECE // max(rates.numel(), 1), 1)
        total, gradient = student.new_zeros(()), None
        if ctx.needs_input_grad[0]:
            gradient = torch.zeros_like(student)
        for image in range(images):
            for begin in range(0, cells, step):
                piece = slice(begin, begin + step)
                log_s, log_t = (
                    F.log_softmax(exclude(x[image, piece] @ x.mT / tau, out), 2)
                    for x in (student, teacher)
                )
                share, rate = log_t.exp(), rates[image, piece, None]
                total += (share * (log_t - log_s) * rate).sum()
                if gradient is not None:
                    slope = (log_s.exp() - share) * (rate / tau)
                    gradient[image, piece] += (slope @ student).sum(0)
                    gradient += slope.mT @ student[image, piece]
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        (gradient,) = ctx.saved_tensors
        return gradient * slope, None, None, None


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
    student, teacher, weight = counting_cells('cross_image_memory_loss', student, teacher, mask)
    weight = known_weight(label, num_classes, weight)
    members = membership(label, num_classes, weight)
    weight = weight.flatten(1)
    inside = weight != 0
    theirs = unit(pixel_rows(teacher).masked_fill(~inside[..., None], 0))
    keys = recall(theirs, members)

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
