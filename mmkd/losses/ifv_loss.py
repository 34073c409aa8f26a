from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.intra_class import ifv_loss


@MODELS.register_module()
class IFVLoss(nn.Module):
    """Squared difference of how like their class's mean the pixels are (Wang et al., ECCV 2020).

    V = cos(pixel, mean of its class in its image); mean of (V_s - V_t)^2 over the pixels that have
    a class. The official code counts ignored pixels in the divisor too, where they are always 0.

    Published: after PSP or ASPP (``tap='decode_head.bottleneck'``), weight 200 beside pixel-wise
    KD of weight 10 (and an adversarial loss); CIRKD's re-run has 20.

    Args:
        num_classes: How many classes; None: as many as the student has.
    """

    asks = ('label', 'num_classes')
    any_channels = True

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        *,
        label: Tensor,
        num_classes: int | None = None,
        **context,
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C', H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells; the divisor is its sum over pixels
                with a class, averaged over ranks.
            label: [B, H, W], class indices; others are out.
            num_classes: How many there are, unless the constructor was told.
            **context: Not used.

        Returns:
            Scalar, without unit.
        """
        return ifv_loss(student, teacher, label, self.num_classes or num_classes, mask)
