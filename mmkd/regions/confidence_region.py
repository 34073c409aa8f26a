"""Where the teacher is sure."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.registry import MODELS


@MODELS.register_module()
class ConfidenceRegion(nn.Module):
    """The teacher's highest class score in each cell.

    For a dense detector it is the highest over classes, anchors and the levels of the pyramid, for
    a two-stage one its RPN's objectness likewise, for a segmentor the highest class probability;
    the map is resized to the tap's size.

    Args:
        power: exponent on the score.
    """

    asks = ('scores',)
    needs_predictions = True

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, lesson, size: tuple[int, int], teacher: str | None = None) -> Tensor:
        """Weights ``[B, 1, H, W]`` of a map of ``size``."""
        model, family = lesson.frozen(teacher)
        maps = family.score_maps(model, lesson.teacher(teacher).predictions.outputs)
        maps = [_to_size(x, tuple(size)) for x in maps]
        return torch.stack(maps).amax(0) ** self.power


def _to_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2] >= size[0] and x.shape[-1] >= size[1]:
        return F.adaptive_max_pool2d(x, size)
    return F.interpolate(x, size, mode='nearest')
