"""What ReviewKD compares fused features by (Chen et al., CVPR 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .cells import counting_cells
from .common import divided, full_precision
from .reduce import reduce_mean

_SIDES = (4, 2, 1)


@full_precision
def hierarchical_context_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Mean squared differences of a map, and of its means over 4 x 4, 2 x 2 and 1 x 1 bins.

    Each size weighs half of the one before, and their sum is divided by the sum of these weights
    (1.875). Sizes that are not below the map's shorter side are left out.

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        mask: Weights of cells; a bin has the weighted mean of its cells, and weighs as they do.

    Returns:
        Scalar, in squared units of the feature; each mean is over weights averaged over ranks.

    Raises:
        ValueError: If shapes do not fit.
    """
    name = 'hierarchical_context_loss'
    student, teacher, weight = counting_cells(name, student, teacher, mask)
    gap = (student - teacher) * weight
    sums, counts, ratios, ratio = [], [], [], 1.0
    for side in (None, *_SIDES):
        if side is None:
            pooled, share = gap, weight
        elif side < min(gap.shape[-2:]):
            pooled, share = (F.adaptive_avg_pool2d(x, side) for x in (gap, weight))
        else:
            # on all ranks as many counts, whatever the size of their maps
            sums, counts, ratios = [*sums, 0.0], [*counts, weight.new_zeros(())], [*ratios, 0.0]
            continue
        sums.append(divided(pooled.square(), share).mean(1).sum())
        counts.append(share.sum())
        ratios.append(ratio)
        ratio /= 2
    counts = reduce_mean(torch.stack(counts))
    total = sum(r * divided(s, n) for r, s, n in zip(ratios, sums, counts))
    return total / sum(ratios)
