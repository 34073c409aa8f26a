from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.normalised import pairwise_affinity_loss


@MODELS.register_module()
class PairwiseAffinityLoss(nn.Module):
    """Cosines between all pairs of pooled nodes (SKD's pair-wise part: Liu et al., CVPR 2019).

    Maps are max-pooled by windows of ``scale`` times their size (ceil mode; 0.5: 2 x 2 nodes, or
    3 x 3 of odd sizes), each of the n nodes is divided by its detached L2 norm, G = F^T F, and the
    loss is ``1 / (B n^2) * sum (G_t - G_s)^2``. Channels may differ. Memory and time go with n^2.

    Published for PSPNet-R101 to R18 on Cityscapes: on the output of the PSP module
    (``tap='decode_head.bottleneck'``) with weight 0.5, beside pixel-wise KL (LogitKD). Ignored and
    padded cells, which the published code pools and compares, are out.

    Args:
        scale: Side of a window over the map's.

    Raises:
        ValueError: If scale is not in (0, 1].
    """

    any_channels = True

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        if not 0 < scale <= 1:
            raise ValueError(f'PairwiseAffinityLoss: scale={scale} must be in (0, 1]')
        self.scale = scale

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C', H, W].
            mask: [B, H, W] or [B, 1, H, W]; cells where it is 0 are out, and nodes without any; an
                image with none left adds 0.
            **context: Not used.

        Returns:
            Scalar, without unit.
        """
        return pairwise_affinity_loss(student, teacher, mask, self.scale)
