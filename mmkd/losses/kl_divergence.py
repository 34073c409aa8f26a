from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.logit import kl_divergence
from .functional.reduce import resolve_rows


@MODELS.register_module()
class KLDivergence(nn.Module):
    """Vanilla KD: softmax KL over dim 1, times tau^2, mean over rows (Hinton et al., 2014).

    Rows are pixels, images or RoIs. With a mask the divisor is its sum averaged over ranks.

    Args:
        tau: Temperature of both softmaxes.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        check_positive('KLDivergence: tau', tau)
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
        """Compare logits [N, K, ...].

        Args:
            student: [N, K, ...].
            teacher: [N, K, ...].
            mask: [N, ...] or [N, 1, ...]; what counts, and by its sum the divisor.
            weight: Like mask, but leaves the divisor alone; not together with it.
            avg_factor: Divisor; None: the sum of the mask, or the number of rows.
            **context: Not used.

        Returns:
            Scalar, in nats.
        """
        weight, avg_factor = resolve_rows(student, mask, weight, avg_factor)
        return kl_divergence(student, teacher, weight, avg_factor, self.tau)
