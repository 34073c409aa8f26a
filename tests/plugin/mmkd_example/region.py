import torch
from torch import Tensor, nn

from mmkd.registry import MODELS


@MODELS.register_module()
class CentreRegion(nn.Module):
    """1 in cells whose centre lies in the middle of a labelled box, 0 elsewhere.

    Args:
        share: side of the middle over side of the box.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def forward(self, lesson, size: tuple[int, int], teacher: str | None = None) -> Tensor:
        """Weights ``[B, 1, H, W]`` of a map of ``size`` that covers the batch's canvas."""
        height, width = lesson.inputs.shape[-2:]
        device = lesson.inputs.device
        ys = (torch.arange(size[0], device=device) + 0.5) * (height / size[0])
        xs = (torch.arange(size[1], device=device) + 0.5) * (width / size[1])
        maps = []
        for sample in lesson.data_samples:
            if 'gt_instances' not in sample:
                raise ValueError('CentreRegion: samples have no boxes; use it with detectors only')
            boxes = sample.gt_instances.bboxes
            boxes = getattr(boxes, 'tensor', boxes)
            centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
            near_x = (xs - centre[:, :1]).abs() <= half[:, :1] * self.share
            near_y = (ys - centre[:, 1:]).abs() <= half[:, 1:] * self.share
            maps.append((near_y[:, :, None] & near_x[:, None, :]).any(0))
        return torch.stack(maps)[:, None].float()
