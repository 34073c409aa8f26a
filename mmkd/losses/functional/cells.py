"""Sums, means and distributions over the cells of a map that count; which cells boxes cover."""

import torch
from torch import Tensor

from .common import check_layout, row_weight, silence

_LEAST = 1e-6  # divisors below are those of nothing


def counting_cells(
    name: str, student: Tensor, teacher: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Both maps, 0 where the mask is, and the weights of their cells, all 1 without a mask.

    Args:
        name: How an error calls the loss.
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        mask: [B, H, W] or [B, 1, H, W].

    Returns:
        student, teacher and weights [B, 1, H, W].

    Raises:
        ValueError: If shapes do not fit.
    """
    check_layout(name, student, 4, '[B, C, H, W]')
    if mask is None:
        return student, teacher, torch.ones_like(student[:, :1])
    weight = row_weight(student, mask)
    return *silence(student, teacher, weight), weight


def divided(total: Tensor, count: Tensor) -> Tensor:
    """``total / count``; 0, with a graph, where both are 0."""
    return total / count.clamp(min=_LEAST)


def cell_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean over the cells of each image, [B, C, H, W] -> [B, C]; 0 of an image without any."""
    return divided((x * weight).sum((2, 3)), weight.sum((2, 3)))


def cell_softmax(x: Tensor, weight: Tensor) -> Tensor:
    """Softmax over the cells of each image whose weight is not 0.

    Args:
        x: [B, 1, H, W].
        weight: [B, 1, H, W].

    Returns:
        [B, 1, H, W]; 0 elsewhere.
    """
    counts = weight != 0
    # The lowest finite number has probability 0 as -inf has, but no inf - inf in any gradient.
    x = x.masked_fill(~counts, torch.finfo(x.dtype).min)
    return x.flatten(1).softmax(1).view_as(x) * counts


def spatial_attention(x: Tensor, weight: Tensor, tau: float) -> Tensor:
    """N * softmax over the N cells of the mean magnitude / tau: [B, C, H, W] -> [B, 1, H, W]."""
    count = (weight != 0).sum((1, 2, 3), keepdim=True)
    return count * cell_softmax(x.abs().mean(1, keepdim=True) / tau, weight)


def channel_attention(x: Tensor, weight: Tensor, tau: float) -> Tensor:
    """C * softmax over channels of the mean magnitude / tau: [B, C, H, W] -> [B, C, 1, 1]."""
    magnitude = cell_mean(x.abs(), (weight != 0).to(x.dtype))
    return x.shape[1] * (magnitude / tau).softmax(1)[:, :, None, None]


def cells_in_boxes(first: Tensor, last: Tensor, size: tuple[int, int]) -> Tensor:
    """Which cells lie in which box, without a loop over boxes.

    Args:
        first: [n, 2], x and y of the first cell in each.
        last: [n, 2], of the last.
        size: (H, W).

    Returns:
        Bool [n, H, W].
    """
    xs, ys = (torch.arange(n, device=first.device) for n in (size[1], size[0]))
    columns = (xs >= first[:, :1]) & (xs <= last[:, :1])
    rows = (ys >= first[:, 1:]) & (ys <= last[:, 1:])
    return rows[:, :, None] & columns[:, None, :]


def in_cells(boxes: Tensor, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Boxes in cells of a map that covers the padded canvas.

    Args:
        boxes: [n, 4], corners in pixels.
        canvas: Height and width of the batch in pixels.
        size: (H, W) of the map.
    """
    scale = [size[1] / canvas[1], size[0] / canvas[0]]
    return boxes.detach() * boxes.new_tensor(scale * 2)
