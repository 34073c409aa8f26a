from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.feature import pkd_loss


@MODELS.register_module()
class PKDLoss(nn.Module):
    """Half the mean squared difference of standardised maps (PKD: Cao et al., NeurIPS 2022).

    Blind to each channel's scale and offset. Rank-local: mean, std and divisor are those of the
    rank's own batch, so several processes differ from one on the concatenated batch.

    Published, on the first four outputs of an FPN: weight 6 (Faster R-CNN; RetinaNet taught by Mask
    R-CNN), 10 (RetinaNet, RepPoints and FCOS).
    """

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C, H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells; statistics come from the cells
                where it is not 0.
            **context: Not used.

        Returns:
            Scalar, without unit.
        """
        return pkd_loss(student, teacher, mask)
