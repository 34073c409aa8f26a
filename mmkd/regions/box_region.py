"""Inside the labelled boxes."""

import torch
from torch import Tensor, nn

from mmkd.registry import MODELS


@MODELS.register_module()
class BoxRegion(nn.Module):
    """1 in cells whose centre lies in a labelled box, ``outside`` elsewhere.

    Args:
        outside: weight of the cells outside every box.
    """

    asks = ('boxes',)

    def __init__(self, outside: float = 0.0) -> None:
        super().__init__()
        self.outside = outside

    def forward(self, lesson, size: tuple[int, int], teacher: str | None = None) -> Tensor:
        """Weights ``[B, 1, H, W]`` of a map of ``size`` over the batch's canvas.

        Raises:
            ValueError: if the samples have no boxes.
        """
        height, width = lesson.inputs.shape[-2:]
        device = lesson.inputs.device
        ys = (torch.arange(size[0], device=device) + 0.5) * (height / size[0])
        xs = (torch.arange(size[1], device=device) + 0.5) * (width / size[1])
        maps = []
        for sample in lesson.data_samples:
            if 'gt_instances' not in sample:
                raise ValueError('BoxRegion: samples have no boxes; use it with detectors only')
            boxes = sample.gt_instances.bboxes
            boxes = getattr(boxes, 'tensor', boxes)
            rows = (ys[None] >= boxes[:, 1:2]) & (ys[None] <= boxes[:, 3:4])
            columns = (xs[None] >= boxes[:, 0:1]) & (xs[None] <= boxes[:, 2:3])
            maps.append((rows[:, :, None] & columns[:, None, :]).any(0))
        inside = torch.stack(maps)[:, None].float()
        return inside + self.outside * (1 - inside)
