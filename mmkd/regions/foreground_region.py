"""Pixels that are labelled as something else than background."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.registry import MODELS


@MODELS.register_module()
class ForegroundRegion(nn.Module):
    """1 in cells whose label is not one of ``background``, ``outside`` elsewhere (segmentors).

    Args:
        background: label ids that count as background.
        outside: weight of the background's cells.
    """

    asks = ('label',)

    def __init__(self, background: tuple[int, ...] = (0,), outside: float = 0.0) -> None:
        super().__init__()
        self.background = tuple(background)
        self.outside = outside

    def forward(self, lesson, size: tuple[int, int], teacher: str | None = None) -> Tensor:
        """Weights ``[B, 1, H, W]`` of a map of ``size``.

        Raises:
            ValueError: if the samples have no label maps.
        """
        if any('gt_sem_seg' not in sample for sample in lesson.data_samples):
            raise ValueError('ForegroundRegion: samples have no label maps; use BoxRegion')
        labels = torch.stack([sample.gt_sem_seg.data for sample in lesson.data_samples])
        labels = F.interpolate(labels.float(), tuple(size), mode='nearest')
        inside = torch.ones_like(labels)
        for value in self.background:
            inside = inside * (labels != value)
        return inside + self.outside * (1 - inside)
