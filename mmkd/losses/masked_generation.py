import torch
from torch import Tensor, nn


class MaskedGeneration(nn.Module):
    """MGD's block: erases random cells of a map and makes a map by two 3x3 convolutions.

    All channels of a cell are erased together. What is erased is drawn from torch's generator of
    the map's device. The DistillHook saves that generator on each rank and brings it back, so a
    resumed run erases what the uninterrupted one would have; two processes erase other cells than
    one.

    Args:
        channels: of the map.
        mask_ratio: share of the cells that is erased.
    """

    def __init__(self, channels: int, mask_ratio: float) -> None:
        super().__init__()
        self.mask_ratio = mask_ratio
        self.convs = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        kept = torch.rand_like(x[:, :1]) >= self.mask_ratio
        return self.convs(x * kept)


def check_mask_ratio(name: str, value: float) -> None:
    """Raise a ``ValueError`` unless the loss called ``name`` may erase this share of the cells."""
    if not 0 <= value < 1:
        raise ValueError(f'{name}: mask_ratio={value} must be in [0, 1)')
