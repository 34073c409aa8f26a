"""The cells of a map as vectors: of unit length, by their classes, and the means of these."""

import torch
from torch import Tensor

from .common import divided

_MIN_SQUARE = 1e-24


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """``x`` divided by its length along ``dim``.

    A vector of length 0 stays 0, without gradient: its slope has no bound.
    """
    square = x.square().sum(dim, keepdim=True)
    long_enough = square > _MIN_SQUARE
    return torch.where(long_enough, x * torch.where(long_enough, square, 1.0).rsqrt(), 0.0)


def pixel_rows(x: Tensor) -> Tensor:
    """[B, C, H, W] as [B, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


def known_weight(label: Tensor, num_classes: int, weight: Tensor) -> Tensor:
    """The weight of each pixel that has a class, 0 elsewhere.

    Args:
        label: [B, H, W]; what is not in 0 ... num_classes - 1 is no class.
        num_classes: How many there are.
        weight: [B, 1, H, W].

    Returns:
        [B, 1, H, W].

    Raises:
        ValueError: If the label has another size.
    """
    wanted = (weight.shape[0], *weight.shape[2:])
    if tuple(label.shape) != wanted:
        raise ValueError(
            f'label of shape {tuple(label.shape)} does not fit maps of shape {wanted}; give one '
            'class per cell'
        )
    known = (label >= 0) & (label < num_classes)
    return weight * known.unsqueeze(1)


def membership(label: Tensor, num_classes: int, weight: Tensor) -> Tensor:
    """1 where a pixel of weight counts for a class: [B, K, N], N = H * W.

    Args:
        label: [B, H, W].
        num_classes: K.
        weight: [B, 1, H, W].
    """
    classes = torch.arange(num_classes, device=label.device)[:, None]
    belongs = (label.flatten(1)[:, None] == classes) & (weight.flatten(2) != 0)
    return belongs.to(weight.dtype)


def class_means(rows: Tensor, members: Tensor) -> Tensor:
    """Mean of each image's pixels of each class, 0 where it has none.

    Args:
        rows: [B, N, C].
        members: [B, K, N].

    Returns:
        [B, K, C].
    """
    return divided(members @ rows, members.sum(2, keepdim=True))
