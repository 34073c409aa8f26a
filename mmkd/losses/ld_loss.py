from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.logit import ld_loss
from .functional.reduce import resolve_rows


@MODELS.register_module()
class LDLoss(nn.Module):
    """Localisation distillation: KL between the bins of a box side (Zheng et al., CVPR 2022).

    Summed over bins, times tau^2, mean over rows. The official code means over the bins, divides
    by the 4 sides and by no number of boxes: its weight of 0.25 equals, for the 17 bins of
    ``reg_max=16``, ``0.25 / 17`` here with ``avg_factor=4``.

    Args:
        tau: Temperature of both softmaxes.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, tau: float = 10.0) -> None:
        super().__init__()
        check_positive('LDLoss: tau', tau)
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
        """Compare bin logits.

        Args:
            student: [M, bins], a row per box side.
            teacher: Like student.
            mask: [M] or [M, 1]; what counts, and by its sum, averaged over ranks, the divisor.
            weight: [M] or [M, 1]; leaves the divisor alone; not together with mask.
            avg_factor: Divisor; None: the sum of the mask, or the number of rows.
            **context: Not used.

        Returns:
            Scalar, in nats.
        """
        weight, avg_factor = resolve_rows(student, mask, weight, avg_factor)
        return ld_loss(student, teacher, weight, avg_factor, self.tau)
