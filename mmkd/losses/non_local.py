from torch import Tensor, nn

from .functional.cells import max_pooled
from .masked_batch_norm import MaskedBatchNorm


class NonLocal(nn.Module):
    """A non-local block of dot products on the cells that count (Wang et al., CVPR 2018).

    ``x + norm(out(sum over keys of (query . key) value / keys))``. Without a softmax the products
    of keys and values can be taken first, so that no matrix of cells by cells is made. The norm
    begins with a slope of 0: the block begins as the identity.

    Args:
        channels: of the map.
        width: of queries, keys and values.
        pool: side of the cells whose highest values make a key and a value.
    """

    def __init__(self, channels: int, width: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(channels, width, 1)
        self.value = nn.Conv2d(channels, width, 1)
        self.out = nn.Conv2d(width, channels, 1, bias=False)
        self.norm = MaskedBatchNorm(channels, slope=0.0)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Add to each cell what it gets from the others of its image.

        Args:
            x: [B, C, H, W].
            weight: [B, 1, H, W]; cells where it is not 0 count, all alike.
        """
        key, value = (
            max_pooled(f(x), weight, self.pool).flatten(2) for f in (self.key, self.value)
        )
        count = (max_pooled(weight, weight, self.pool) != 0).sum((1, 2, 3)).clamp(min=1)
        products = value @ key.transpose(1, 2) / count[:, None, None]
        related = products @ self.query(x).flatten(2)
        return x + self.norm(self.out(related.unflatten(2, x.shape[-2:])), weight)
