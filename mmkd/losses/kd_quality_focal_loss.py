from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.logit import kd_quality_focal_loss
from .functional.reduce import resolve_rows


@MODELS.register_module()
class KDQualityFocalLoss(nn.Module):
    """Quality-focal loss towards the teacher's scores (CrossKD: Wang et al., CVPR 2024).

    |q_s - q_t|^beta * BCE(q_s, q_t), summed over classes. The factor is not detached, as published.

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

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        **context,
    ) -> Tensor:
        """Compare logits before a sigmoid.

        Args:
            student: [M, K] (or [N, K, ...]).
            teacher: Like student.
            mask: [M] or [M, 1] ([N, ...] or [N, 1, ...]); what counts, and by its sum, averaged
                over ranks, the divisor.
            weight: [M], [M, 1] or [M, K]; leaves the divisor alone; not together with mask.
            avg_factor: Divisor; None: the sum of the mask, or the number of rows.
            **context: Not used.

        Returns:
            Scalar.
        """
        weight, avg_factor = resolve_rows(student, mask, weight, avg_factor)
        return kd_quality_focal_loss(student, teacher, weight, avg_factor, self.beta)
