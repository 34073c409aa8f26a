import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses.functional import reduce_mean
from mmkd.registry import MODELS


@MODELS.register_module()
class HuberFeatureLoss(nn.Module):
    """Huber's loss between feature maps: squared up to ``delta``, linear beyond.

    Args:
        delta: where it becomes linear.

    Raises:
        ValueError: if delta is not positive.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        if delta <= 0:
            raise ValueError(f'HuberFeatureLoss: delta={delta} must be positive')
        self.delta = delta

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare maps ``[B, C, H, W]``; ``mask`` weighs their cells, ``[B, 1, H, W]``."""
        gap = F.huber_loss(student, teacher, reduction='none', delta=self.delta)
        gap = gap.mean(1, keepdim=True)
        if mask is None:
            return gap.mean()
        return (gap * mask).sum() / reduce_mean(mask.float().sum()).clamp(min=1e-6)
