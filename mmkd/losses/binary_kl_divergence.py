from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.logit import binary_kl_divergence
from .functional.reduce import resolve_rows


@MODELS.register_module()
class BinaryKLDivergence(nn.Module):
    """KL of each class's sigmoid, times tau^2, summed over classes, mean over rows.

    Args:
        tau: Temperature of both sigmoids.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        check_positive('BinaryKLDivergence: tau', tau)
        self.tau = tau

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
            Scalar, in nats.
        """
        weight, avg_factor = resolve_rows(student, mask, weight, avg_factor)
        return binary_kl_divergence(student, teacher, weight, avg_factor, self.tau)
