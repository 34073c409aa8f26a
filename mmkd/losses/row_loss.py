from torch import Tensor, nn

from .functional.reduce import resolve_rows


class RowLoss(nn.Module):
    """What losses over rows share: how a mask, weights and a divisor are given.

    A row is a distribution or a box: all but dim 1 of [N, K, ...]. Subclasses implement
    :meth:`compare`.
    """

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        **context,
    ) -> Tensor:
        """Compare row by row.

        Args:
            student: [N, K, ...], often [M, K].
            teacher: Like student.
            mask: [N, ...] or [N, 1, ...]; what counts, and by its sum, averaged over ranks, the
                divisor.
            weight: Like mask ([N, K, ...] too where classes are compared one by one), but leaves
                the divisor alone; not together with mask.
            avg_factor: Divisor; None: the sum of the mask, or the number of rows.
            **context: Not used.

        Returns:
            Scalar.

        Raises:
            ValueError: If shapes do not fit, or mask and weight are both given.
        """
        weight, avg_factor = resolve_rows(student, mask, weight, avg_factor)
        return self.compare(student, teacher, weight, avg_factor)

    def compare(
        self,
        student: Tensor,
        teacher: Tensor,
        weight: Tensor | None,
        avg_factor: Tensor | float | None,
    ) -> Tensor:
        """Give the weighted sum over rows, divided by ``avg_factor``."""
        raise NotImplementedError
