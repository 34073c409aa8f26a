from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.feature import channel_wise_divergence


@MODELS.register_module()
class ChannelWiseDivergence(nn.Module):
    """KL of each channel's softmax over cells, times tau^2 / (B * C) (CWD: Shu et al., ICCV 2021).

    Published for detectors: weight 5 to 10 on the outputs of an FPN, tau 1; for segmentors, tau 4,
    weight 3 on the logits or 50 on the map after the PSP or ASPP module. With ``standardise`` it
    is RTMDet's distillation (MMYOLO, 2023): weight 1, tau 1 on ``neck.out_convs.{0,1,2}.conv``, the
    student's after a 1x1 convolution; there by a BatchNorm without parameters, so by the biased
    deviation. The statistics are those of the rank's own batch.

    Blind to each channel's offset. More cells make flatter distributions: tune tau again when the
    resolution changes.

    Args:
        tau: Temperature of both softmaxes.
        standardise: Give each channel of both maps mean 0 and standard deviation 1 over batch and
            valid cells first.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, tau: float = 1.0, standardise: bool = False) -> None:
        super().__init__()
        check_positive('ChannelWiseDivergence: tau', tau)
        self.tau = tau
        self.standardise = standardise

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare feature or logit maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C, H, W].
            mask: [B, H, W] or [B, 1, H, W]; cells where it is 0 are out of both softmaxes.
            **context: Not used.

        Returns:
            Scalar, in nats.
        """
        return channel_wise_divergence(student, teacher, mask, self.tau, self.standardise)
