from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_count, check_positive
from .functional.cross_image import cross_image_pixel_loss

_LARGE, _POOL = 256, 4  # cells a side; the published code pools what is no smaller


@MODELS.register_module()
class CrossImagePixelLoss(nn.Module):
    """KL of each pixel's likeness to the pixels of every image of the batch (CIRKD, CVPR 2022).

    CIRKD's mini-batch term (Yang et al.): softmax over cosines / tau, mean over the pixels of an
    image and over all B^2 ordered pairs of images. Ignored and padded pixels are out, as rows and
    as keys; in the official code they teach. Rank-local: pairs are those of the rank's own batch.

    Published: after ASPP or PSP (``tap='decode_head.bottleneck'``), weight 1.

    It costs (B H W)^2 similarities a step.

    Args:
        tau: Temperature of the cosines.
        pool: Side of the average pooling that comes first; None: 4 where H and W are 256 or more,
            as published, else none.

    Raises:
        ValueError: If tau is not positive, or pool no whole number above 0.
    """

    any_channels = True

    def __init__(self, tau: float = 0.1, pool: int | None = None) -> None:
        super().__init__()
        check_positive('CrossImagePixelLoss: tau', tau)
        if pool is not None:
            check_count('CrossImagePixelLoss: pool', pool)
        self.tau = tau
        self.pool = pool

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C', H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells, by which each image's pixels are
                averaged.
            **context: Not used.

        Returns:
            Scalar, in nats.
        """
        pool = self.pool
        if pool is None:
            pool = _POOL if min(student.shape[2:]) >= _LARGE else 1
        return cross_image_pixel_loss(student, teacher, mask, self.tau, pool)
