from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.normalised import at_loss


@MODELS.register_module()
class ATLoss(nn.Module):
    """Squared difference of attention maps (AT: Zagoruyko & Komodakis, ICLR 2017).

    ``1 / (B N) * sum (a_s - a_t)^2``; a is an image's mean square over channels, divided by its L2
    norm over the N cells. Channels may differ. As in the authors' code; the paper has the
    unsquared norm of the difference.

    The squares of an image sum to at most 2 whatever N, so a weight goes with N: published are
    1e4 for segmentors, after the ASPP at 64 x 128 cells (CIRKD's scripts), and 1e3 on three stages
    of 8 x 8 to 32 x 32 cells (CIFAR); none for detectors.
    """

    any_channels = True

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C', H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells, where 0 out of the norm too; the
                divisor is its sum, averaged over ranks.
            **context: Not used.

        Returns:
            Scalar, without unit.
        """
        return at_loss(student, teacher, mask)
