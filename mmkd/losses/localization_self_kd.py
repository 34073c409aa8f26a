from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.localization_self_kd import localization_self_kd


@MODELS.register_module()
class LocalizationSelfKD(nn.Module):
    """GO-LSD of D-FINE (Peng et al., ICLR 2025): the last bins of a box side teach earlier ones.

    KL over bins times tau^2, weighted; the means over the rows of matched and of unmatched
    predictions count by the roots of their numbers, see
    :func:`mmkd.losses.functional.localization_self_kd`. D-FINE weighs matched rows by their IoU
    with the label and others by the last layer's highest class score; its weight is 1.5 for each
    layer of the decoder. Its official code counts rows on each rank; here ranks count together, and
    a batch without rows keeps its graph.

    Compares bin logits [M, bins], a row per box side; in nats. Where rows come from a criterion
    (``loss_dfl``), they are one group, and its ``avg_factor`` is not used.

    Args:
        tau: Temperature of both softmaxes.

    Raises:
        ValueError: If tau is not positive.
    """

    def __init__(self, tau: float = 5.0) -> None:
        super().__init__()
        check_positive('LocalizationSelfKD: tau', tau)
        self.tau = tau

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        matched: Tensor | None = None,
        **context,
    ) -> Tensor:
        """Compare row by row.

        Args:
            student: [M, bins].
            teacher: Like student.
            mask: [M] or [M, 1]; rows that count.
            weight: Like mask; leaves the numbers of rows alone.
            matched: Like mask; rows that belong to a labelled object. None: all.
            **context: Not used.

        Returns:
            Scalar.

        Raises:
            ValueError: If shapes do not fit.
        """
        return localization_self_kd(student, teacher, matched, weight, mask, self.tau)
