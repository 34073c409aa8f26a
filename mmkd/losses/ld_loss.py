from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.logit import ld_loss
from .row_loss import RowLoss


@MODELS.register_module()
class LDLoss(RowLoss):
    """Localisation distillation: KL between the bins of a box side (Zheng et al., CVPR 2022).

    Summed over bins, times tau^2, mean over rows. The official code means over the bins, divides
    by the 4 sides and by no number of boxes: its weight of 0.25 equals, for the 17 bins of
    ``reg_max=16``, ``0.25 / 17`` here with ``avg_factor=4``.

    Compares bin logits [M, bins], a row per box side; in nats.

    Args:
        tau: Temperature of both softmaxes.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, tau: float = 10.0) -> None:
        super().__init__()
        check_positive('LDLoss: tau', tau)
        self.tau = tau

    def compare(self, student, teacher, weight, avg_factor):
        return ld_loss(student, teacher, weight, avg_factor, self.tau)
