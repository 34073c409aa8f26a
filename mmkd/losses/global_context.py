import torch.nn.functional as F
from torch import Tensor, nn

from .functional.cells import cell_softmax


class GlobalContext(nn.Module):
    """GCNet's block on the cells that count: the map + one vector an image (Cao et al., 2019).

    The vector is the sum of cells weighted by a learnt softmax over them, through a bottleneck
    whose last layer begins with 0: the block begins as the identity.

    Args:
        channels: of the map; the bottleneck has half.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(channels // 2, 1)
        self.attend = nn.Conv2d(channels, 1, 1)
        self.squeeze = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, channels)
        nn.init.kaiming_normal_(self.attend.weight)
        nn.init.zeros_(self.attend.bias)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Add each image's context.

        Args:
            x: [B, C, H, W].
            weight: [B, 1, H, W]; cells where it is not 0 count, all alike.
        """
        context = (x * cell_softmax(self.attend(x), weight)).sum((2, 3))
        return x + self.expand(F.relu(self.norm(self.squeeze(context))))[:, :, None, None]
