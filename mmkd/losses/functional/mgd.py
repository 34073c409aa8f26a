"""Masked generative distillation (MGD: Yang et al., ECCV 2022)."""

from collections.abc import Callable

from torch import Tensor

from .cells import counting_cells
from .common import full_precision


@full_precision
def mgd_loss(
    student: Tensor,
    teacher: Tensor,
    generate: Callable[[Tensor], Tensor],
    keep: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """``sum((generate(keep * student) - teacher)^2) / B``, kept and erased cells both counted.

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        generate: Map -> map.
        keep: [B, 1, H, W], 0 where the student's map is erased.
        mask: Weights of cells; where it is 0 the student gives 0 and nothing is compared.

    Returns:
        Scalar, in squared units of the feature.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('mgd_loss', student, teacher, mask)
    gap = generate(student * keep.to(student.dtype)) - teacher
    return (gap.square() * weight).sum() / max(student.shape[0], 1)
