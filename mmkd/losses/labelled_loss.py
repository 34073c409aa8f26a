from torch import Tensor, nn

from .functional.common import row_weight
from .functional.labelled import labelled_rows
from .functional.reduce import reduce_mean, resolve_rows


class LabelledLoss(nn.Module):
    """What losses over rows of class logits with a label share; as RowLoss but for the label.

    Subclasses implement :meth:`compare`.
    """

    asks = ('label',)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        *,
        label: Tensor,
        **context,
    ) -> Tensor:
        """Compare row by row.

        Args:
            student: Logits [N, K], or maps [N, K, H, W].
            teacher: Like student.
            mask: [N, ...] or [N, 1, ...]; what counts, and by its sum, averaged over ranks, the
                divisor.
            weight: Like mask, but leaves the divisor alone; not together with mask.
            avg_factor: Divisor; None: the sum of the mask, or the number of rows with a label,
                averaged over ranks.
            label: [N, ...], class indices; rows with a label outside 0 .. K - 1 (-1: ignored) are
                neither in the sum nor in the divisor.
            **context: Not used.

        Returns:
            Scalar, in nats.

        Raises:
            ValueError: If shapes do not fit, or mask and weight are both given.
        """
        known = labelled_rows(student, label)
        if mask is not None:
            mask = row_weight(student, mask) * known.unsqueeze(1)
        elif avg_factor is None:
            avg_factor = reduce_mean(known.sum())
        weight, avg_factor = resolve_rows(student, mask, weight, avg_factor)
        return self.compare(student, teacher, label, weight, avg_factor)

    def compare(
        self,
        student: Tensor,
        teacher: Tensor,
        label: Tensor,
        weight: Tensor | None,
        avg_factor: Tensor | float,
    ) -> Tensor:
        """Give the weighted sum over labelled rows, divided by ``avg_factor``."""
        raise NotImplementedError
