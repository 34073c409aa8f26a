"""Normalisers that make several processes teach like one."""

import torch
import torch.distributed as dist
from torch import Tensor

from .common import promote, row_weight


def reduce_mean(x: Tensor) -> Tensor:
    """Return the mean of ``x`` over all ranks; ``x`` itself in a single process.

    DDP averages gradients over ranks. With ``loss = local_sum / reduce_mean(local_count)`` on each
    rank the averaged gradient is that of one process on the concatenated batch. A collective: every
    rank has to call it.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    mean = promote(x.detach()).clone()
    dist.all_reduce(mean)
    return mean / dist.get_world_size()


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows [M, ...] of all ranks, rank by rank, without a graph; M may differ.

    ``x`` itself in a single process. A collective: every rank has to call it.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    x = x.detach()
    ranks = range(dist.get_world_size())
    count = torch.tensor([len(x)], device=x.device)
    counts = [torch.empty_like(count) for _ in ranks]
    dist.all_gather(counts, count)
    longest = int(max(counts))
    padded = torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
    everything = [torch.empty_like(padded) for _ in ranks]
    dist.all_gather(everything, padded)
    return torch.cat([rows[: int(n)] for rows, n in zip(everything, counts)])


def resolve_rows(
    student: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    avg_factor: Tensor | float | None,
) -> tuple[Tensor | None, Tensor | float | None]:
    """Turn a loss module's context into the ``weight`` and ``avg_factor`` of its pure function.

    Args:
        student: [N, K, ...].
        mask: [N, ...] or [N, 1, ...], bool or numbers: what counts. It weights the rows, and
            its sum, averaged over ranks, is the divisor unless ``avg_factor`` is given.
        weight: Weights that leave the divisor alone.
        avg_factor: The divisor; None: the sum of the mask, or without a mask the own rows.

    Raises:
        ValueError: If mask and weight are both given, or the mask does not fit.
    """
    if mask is None:
        return weight, avg_factor
    if weight is not None:
        raise ValueError('a loss takes a mask or a weight, not both; multiply them into the weight')
    mask = row_weight(student, mask)
    return mask, reduce_mean(mask.sum()) if avg_factor is None else avg_factor
