"""The default adapter."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.registry import MODELS


@MODELS.register_module()
class Project(nn.Module):
    """A 1x1 convolution where channels differ, and a resize of the student where sizes differ.

    A student larger than its target is average-pooled (bilinear resizing by 4 or more would skip
    cells), a smaller one is resized bilinearly with ``align_corners=False``.

    Args:
        in_channels: the student's channels.
        out_channels: the teacher's.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        same = in_channels == out_channels
        self.conv = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """``[B, C, H, W] -> [B, C', *size]``."""
        return resize(self.conv(x), size)

    def extra_repr(self) -> str:
        return 'as it is' if isinstance(self.conv, nn.Identity) else ''


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pools to a smaller size, interpolates bilinearly to a larger one."""
    size = tuple(size)
    if tuple(x.shape[-2:]) == size:
        return x
    if x.shape[-2] >= size[0] and x.shape[-1] >= size[1]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, size, mode='bilinear', align_corners=False)
