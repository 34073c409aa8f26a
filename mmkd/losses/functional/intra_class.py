"""How the pixels of a class vary around their mean."""

from functools import partial

from torch import Tensor

from .cells import counting_cells
from .common import divided, full_precision, silence
from .pixels import class_means, known_weight, membership, pixel_rows, unit
from .reduce import reduce_mean


@partial(full_precision, any_channels=True)
def ifv_loss(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    num_classes: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over pixels of (V_s - V_t)^2, V = cos(pixel, mean of its class in its image).

    IFVD: Wang et al., ECCV 2020. The mean has a gradient too, as in the official code.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        label: [B, H, W]; what is not in 0 ... num_classes - 1 is no class, and out.
        num_classes: How many there are.
        mask: Weights of cells; where it is 0 they are in no mean either.

    Returns:
        Scalar, without unit; divided by the sum of the weights, averaged over ranks.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('ifv_loss', student, teacher, mask)
    weight = known_weight(label, num_classes, weight)
    members = membership(label, num_classes, weight)
    student, teacher = silence(student, teacher, weight)

    def variation(x: Tensor) -> Tensor:
        rows = pixel_rows(x)
        cosines = unit(rows) @ unit(class_means(rows, members)).transpose(1, 2)
        return (cosines * members.transpose(1, 2)).sum(2)

    gap = (variation(student) - variation(teacher)).square() * weight.flatten(1)
    return divided(gap.sum(), reduce_mean(weight.sum()))
