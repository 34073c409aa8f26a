from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.logit import binary_kl_divergence
from .row_loss import RowLoss


@MODELS.register_module()
class BinaryKLDivergence(RowLoss):
    """KL of each class's sigmoid, times tau^2, summed over classes, mean over rows.

    Compares logits before a sigmoid, [M, K] (or [N, K, ...]); in nats.

    Args:
        tau: Temperature of both sigmoids.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        check_positive('BinaryKLDivergence: tau', tau)
        self.tau = tau

    def compare(self, student, teacher, weight, avg_factor):
        return binary_kl_divergence(student, teacher, weight, avg_factor, self.tau)
