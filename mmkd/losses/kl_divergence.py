from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.logit import kl_divergence
from .row_loss import RowLoss


@MODELS.register_module()
class KLDivergence(RowLoss):
    """Vanilla KD: softmax KL over dim 1, times tau^2, mean over rows (Hinton et al., 2015).

    Rows are pixels, images or RoIs. With a mask the divisor is its sum averaged over ranks.

    Compares logits [N, K, ...]; in nats.

    Args:
        tau: Temperature of both softmaxes.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        check_positive('KLDivergence: tau', tau)
        self.tau = tau

    def compare(self, student, teacher, weight, avg_factor):
        return kl_divergence(student, teacher, weight, avg_factor, self.tau)
