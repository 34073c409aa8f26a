from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.masked_generation import mgd_loss
from .masked_generation import MaskedGeneration, check_mask_ratio


@MODELS.register_module()
class MGDLoss(nn.Module):
    """Makes the teacher's map of a student's that is partly erased (MGD: Yang et al., ECCV 2022).

    ``alpha * sum((conv3x3(relu(conv3x3(keep * student))) - teacher)^2) / B`` over all cells, with B
    the rank's own; ``keep`` is drawn at random, see
    :class:`mmkd.losses.masked_generation.MaskedGeneration`. The two convolutions are trained.
    Multiplied by C * H * W, alpha is the weight of a mean.

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
        check_mask_ratio('MGDLoss', mask_ratio)
        self.alpha = alpha
        self.mask_ratio = mask_ratio

    def prepare(self, student: Tensor, teacher: Tensor) -> None:
        """Make the generating convolutions, as wide as the teacher's map [B, C, H, W]."""
        self.generate = MaskedGeneration(teacher.shape[1], self.mask_ratio)

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
        return self.alpha * mgd_loss(student, teacher, self.generate, mask)
