from mmkd.registry import MODELS

from .functional.logit import kd_quality_focal_loss
from .row_loss import RowLoss


@MODELS.register_module()
class KDQualityFocalLoss(RowLoss):
    """Quality-focal loss towards the teacher's scores (CrossKD: Wang et al., CVPR 2024).

    |q_s - q_t|^beta * BCE(q_s, q_t), summed over classes. The factor is not detached, as published.

    Compares logits before a sigmoid, [M, K] (or [N, K, ...]).

    Args:
        beta: Exponent of the modulating factor; 0 gives BCE.

    Raises:
        ValueError: If beta is negative.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        if not 0 <= beta < float('inf'):
            raise ValueError(f'KDQualityFocalLoss: beta={beta} must be 0 or a positive number')
        self.beta = beta

    def compare(self, student, teacher, weight, avg_factor):
        return kd_quality_focal_loss(student, teacher, weight, avg_factor, self.beta)
