import torch
from torch import Tensor, nn

_EPS = 1e-5


class MaskedBatchNorm(nn.Module):
    """BatchNorm by the statistics of the batch's cells that count; it keeps none.

    A channel that does not vary becomes its bias, so that one cell is enough. Rank-local.

    Args:
        channels: of the map.
        slope: what the weights begin with.
    """

    def __init__(self, channels: int, slope: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), slope))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Normalise.

        Args:
            x: [B, C, H, W].
            weight: [B, 1, H, W]; cells where it is not 0 count, all alike.

        Returns:
            [B, C, H, W]; 0 in cells that do not count.
        """
        counts = (weight != 0).to(x.dtype)
        total, dims = counts.sum().clamp(min=1), (0, 2, 3)
        x = x - (x * counts).sum(dims, keepdim=True) / total
        variance = (x.square() * counts).sum(dims, keepdim=True) / total
        return (x * (variance + _EPS).rsqrt() * self.weight + self.bias) * counts
