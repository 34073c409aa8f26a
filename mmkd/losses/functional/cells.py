"""The cells of a map that count: their means, maxima and softmax; which of them boxes cover."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import check_layout, divided, exclude, row_weight, silence


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
    out = weight == 0
    return exclude(x, out).flatten(1).softmax(1).view_as(x).masked_fill(out, 0)


def max_pooled(x: Tensor, weight: Tensor, side: int | list[int]) -> Tensor:
    """The highest values of windows of ``side`` cells, of those that count; 0 of none.

    The last windows are cut off by the map's edge. Pooled itself, a weight becomes the windows'.

    Args:
        x: [B, C, H, W].
        weight: [B, 1, H, W].
        side: Of the windows, in cells; one number, or height and width.
    """
    out = weight == 0
    empty = F.max_pool2d(out.logical_not().to(x.dtype), side, ceil_mode=True) == 0
    return F.max_pool2d(exclude(x, out), side, ceil_mode=True).masked_fill(empty, 0)


def mean_pooled(x: Tensor, weight: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Weighted means of windows of ``side`` x ``side`` cells, and the windows' mean weights.

    The last windows are cut off by the map's edge.

    Args:
        x: [B, C, H, W], 0 where the weight is.
        weight: [B, 1, H, W].
        side: Of the windows, in cells.
    """
    if side == 1:
        return x, weight
    sums, share = (
        F.avg_pool2d(y, side, ceil_mode=True, count_include_pad=False) for y in (x * weight, weight)
    )
    return divided(sums, share), share


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
