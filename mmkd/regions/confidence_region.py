"""Where the teacher is sure."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.registry import MODELS


@MODELS.register_module()
class ConfidenceRegion(nn.Module):
    """The teacher's highest class score in each cell.

    For a dense detector it is the highest over classes, anchors and the levels of the pyramid, for
    a segmentor the highest class probability; the map is resized to the tap's size.

    Args:
        power: exponent on the score.
    """

    needs_predictions = True

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, lesson, size: tuple[int, int], teacher: str | None = None) -> Tensor:
        """Weights ``[B, 1, H, W]`` of a map of ``size``."""
        outputs = lesson.teacher(teacher).predictions.outputs
        if 'seg' in outputs:
            logits = outputs['seg'][0].float()
            score = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
            maps = [score.amax(1, keepdim=True)]
        else:
            model, family = lesson.frozen(teacher)
            logits = family.score_logits(model, outputs)
            maps = [x.float().amax(1, keepdim=True).sigmoid() for x in logits]
        maps = [_to_size(x, tuple(size)) for x in maps]
        return torch.stack(maps).amax(0) ** self.power


def _to_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2] >= size[0] and x.shape[-1] >= size[1]:
        return F.adaptive_max_pool2d(x, size)
    return F.interpolate(x, size, mode='nearest')
