import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masked_batch_norm import MaskedBatchNorm


class AttentionFusion(nn.Module):
    """A level of ReviewKD: a student's map joined with what came from the deeper levels.

    Args:
        channels: of the student's map.
        width: of what goes to the shallower level.
        out_channels: of what is compared with the teacher.
        deepest: whether nothing comes from a deeper level.
    """

    def __init__(self, channels: int, width: int, out_channels: int, deepest: bool) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 1, bias=False)
        self.enter_norm = MaskedBatchNorm(width)
        self.attend = None if deepest else nn.Conv2d(2 * width, 2, 1)
        self.leave = nn.Conv2d(width, out_channels, 3, padding=1, bias=False)
        self.leave_norm = MaskedBatchNorm(out_channels)
        for conv in (self.enter, self.leave):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, x: Tensor, weight: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            x: [B, C, H, W], the student's.
            weight: [B, 1, H, W]; cells where it is not 0 count, all alike.
            deeper: what the deeper level gave, [B, width, h, w].

        Returns:
            what is compared, [B, out_channels, H, W], and what goes on, [B, width, H, W].
        """
        x = self.enter_norm(self.enter(x), weight)
        if deeper is not None:
            deeper = F.interpolate(deeper, x.shape[-2:], mode='nearest') * (weight != 0)
            share = self.attend(torch.cat([x, deeper], 1)).sigmoid()
            x = x * share[:, :1] + deeper * share[:, 1:]
        return self.leave_norm(self.leave(x), weight), x
