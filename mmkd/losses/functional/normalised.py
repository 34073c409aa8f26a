"""Losses between maps [B, C, H, W] after division by an L2 norm; masks are [B, (1,) H, W]."""

from functools import partial

from torch import Tensor

from .cells import counting_cells, max_pooled, mean_pooled
from .common import divided, full_precision, mean_rows_of
from .pixels import unit
from .reduce import reduce_mean


@partial(full_precision, any_channels=True)
def pairwise_affinity_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, scale: float = 0.5
) -> Tensor:
    """Squared difference of the cosines between max-pooled nodes (SKD: Liu et al., CVPR 2019).

    ``1 / B * sum_images 1 / n^2 * sum_ij (G_t - G_s)_ij^2``, G = F^T F of the n nodes, each divided
    by its detached L2 norm + 1e-8.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        mask: Cells where it is 0 are out of the pooling, nodes without a cell out of n; an image
            with none left adds 0.
        scale: Side of the pooling windows, and their stride, over the map's.

    Returns:
        Scalar, without unit.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('pairwise_affinity_loss', student, teacher, mask)
    window = [max(int(side * scale), 1) for side in student.shape[2:]]

    def affinity(x: Tensor) -> Tensor:
        nodes = max_pooled(x, weight, window).flatten(2)
        nodes = nodes / (nodes.detach().norm(dim=1, keepdim=True) + 1e-8)
        return nodes.transpose(1, 2) @ nodes

    count = (max_pooled(weight, weight, window) != 0).sum((1, 2, 3))
    gap = (affinity(student) - affinity(teacher)).square().sum((1, 2))
    return divided(gap, count**2).sum() / max(len(gap), 1)


@partial(full_precision, any_channels=True)
def at_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared difference of attention maps, mean over cells (AT: Zagoruyko & Komodakis, ICLR 2017).

    An image's map is the mean square over channels, divided by its L2 norm over cells.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        mask: Weights of cells; where it is 0 they are out of the norm too.

    Returns:
        Scalar, without unit; divided by the sum of the weights, averaged over ranks.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('at_loss', student, teacher, mask)
    ours, theirs = (unit(x.square().mean(1).flatten(1)) for x in (student, teacher))
    total = ((ours - theirs).square() * weight.flatten(1)).sum()
    return divided(total, reduce_mean(weight.sum()))


@full_precision
def cosine_feature_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, pool: int = 1
) -> Tensor:
    """1 - cosine between the channel vectors of two tokens, mean over tokens.

    A token whose vector is 0 has no direction: it counts 1, without gradient.

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        mask: Weights of cells; a token's is the mean of its cells'.
        pool: Side, in cells, of the windows whose mean is a token.

    Returns:
        Scalar, without unit; divided by the sum of the tokens' weights, averaged over ranks.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('cosine_feature_loss', student, teacher, mask)
    (student, share), (teacher, _) = (mean_pooled(x, weight, pool) for x in (student, teacher))

    def rule(student: Tensor, teacher: Tensor) -> Tensor:
        return 1 - (unit(student, dim=1) * unit(teacher, dim=1)).sum(dim=1, keepdim=True)

    return mean_rows_of(rule, student, teacher, share, reduce_mean(share.sum()))
