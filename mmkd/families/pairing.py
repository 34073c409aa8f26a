"""Which queries of two models go together, and which of their classes."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign(costs: Tensor) -> Tensor:
    """One-to-one Hungarian matching at the lowest sum of costs.

    All costs are brought to the CPU at once; only the assignments themselves are a loop.

    Args:
        costs: ``[N, Q, M]`` of N matchings between Q queries of the student and M of the teacher,
            M <= Q: each of these finds a query.

    Returns:
        the student's query of each of the teacher's, ``[N, M]``.
    """
    pairs = [linear_sum_assignment(cost.T)[1] for cost in costs.cpu().numpy()]
    return torch.from_numpy(np.stack(pairs)).to(costs.device)


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Queries ``[N, M, ...]`` of ``[N, Q, ...]`` by their numbers ``[N, M]``."""
    return x[torch.arange(len(x), device=x.device)[:, None], index]


def shared_and_none(logits: Tensor, shared) -> Tensor:
    """Logits ``[..., K + 1]`` of the shared classes and, last, of none of them, in fp32.

    Args:
        logits: the same of all classes.
        shared: a model's side of the match, ``match.student`` or ``match.teacher``.
    """
    return torch.cat([shared(logits[..., :-1], dim=-1), logits[..., -1:]], -1).float()
