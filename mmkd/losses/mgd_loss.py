import torch
from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.mgd import mgd_loss


@MODELS.register_module()
class MGDLoss(nn.Module):
    """Makes the teacher's map of a student's that is partly erased (MGD: Yang et al., ECCV 2022).

    ``alpha * sum((conv3x3(relu(conv3x3(keep * student))) - teacher)^2) / B`` over all cells, with B
    the rank's own; a share ``mask_ratio`` of the cells is erased, all channels of a cell together.
    The two convolutions are trained. Multiplied by C * H * W, alpha is the weight of a mean.

    What is erased is drawn from torch's generator of the student's device. The DistillHook saves
    that generator on each rank and brings it back, so a resumed run erases what the uninterrupted
    one would have; two processes erase other cells than one.

    Published, by level and with gradients clipped at a norm of 35 (alpha, mask_ratio): RetinaNet,
    RepPoints, SOLO 2e-5, 0.65; two-stage 5e-7, 0.45; segmentors, the last stage 2e-5, 0.75 beside
    ChannelWiseDivergence(tau=4) of weight 3 on the logits. Mended here: ignored and padded cells
    are not counted, and reach no other.

    Args:
        alpha: Weight of the sum.
        mask_ratio: Share of the cells that is erased, in [0, 1).

    Raises:
        ValueError: If mask_ratio is out of its range.
    """

    def __init__(self, alpha: float = 2e-5, mask_ratio: float = 0.65) -> None:
        super().__init__()
        if not 0 <= mask_ratio < 1:
            raise ValueError(f'MGDLoss: mask_ratio={mask_ratio} must be in [0, 1)')
        self.alpha = alpha
        self.mask_ratio = mask_ratio

    def prepare(self, student: Tensor, teacher: Tensor) -> None:
        """Make the generating convolutions, as wide as the teacher's map [B, C, H, W]."""
        channels = teacher.shape[1]
        self.generate = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C, H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells.
            **context: Not used.

        Returns:
            Scalar, in squared units of the feature.
        """
        shape = student.shape[0], 1, *student.shape[2:]
        keep = torch.rand(shape, device=student.device) >= self.mask_ratio
        return self.alpha * mgd_loss(student, teacher, self.generate, keep, mask)
