"""Attention-guided and non-local distillation (FBKD: Zhang and Ma, ICLR 2021)."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from .cells import cell_mean, channel_attention, counting_cells, spatial_attention
from .common import full_precision


@partial(full_precision, any_channels=True)
def fbkd_loss(
    student: Tensor,
    teacher: Tensor,
    blocks: Mapping[str, Callable[..., Tensor]],
    mask: Tensor | None = None,
    tau: float = 0.1,
    alpha: float = 7e-5,
    beta: float = 4e-3,
    gamma: float = 7e-5,
) -> Tensor:
    """``alpha * masked + beta * (channel + spatial) + gamma * relation``, L2 norms over the batch.

    With S and C the spatial and the channel attention, averaged over the adapted student and the
    teacher, without gradient, and P the mean over cells, Q that over channels:

    - masked = ``|sqrt(S * C) * (teacher - adapt(student))|``;
    - channel = ``|P(teacher) - channel(P(student))|``;
    - spatial = ``|Q(teacher) - spatial(Q(student))|``;
    - relation = ``|teacher_relation(teacher) - relation(student_relation(student))|``.

    A norm of 0 has no slope, where a square root's has no bound.

    Args:
        student: [B, C, H, W].
        teacher: [B, C', H, W].
        blocks: ``adapt`` [B, C, H, W] -> [B, C', H, W], ``channel`` [B, C] -> [B, C'], ``spatial``
            [B, 1, H, W] -> [B, 1, H, W], ``student_relation`` and ``teacher_relation`` map and
            weights of its cells -> map, ``relation`` as ``adapt``.
        mask: Weights of cells; those of weight 0 are in no attention and in no mean.
        tau: Temperature of the attentions.
        alpha: Of the masked features.
        beta: Of the pooled features.
        gamma: Of the relations.

    Returns:
        Scalar, in units of the feature; of the rank's own batch, it grows with the root of B.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('fbkd_loss', student, teacher, mask)
    adapted = blocks['adapt'](student)
    importance = weight
    for attend in (spatial_attention, channel_attention):
        ours, theirs = (attend(x.detach(), weight, tau) for x in (adapted, teacher))
        importance = importance * (ours + theirs) / 2
    any_cell = weight.flatten(1).amax(1, keepdim=True) > 0
    pooled = cell_mean(teacher, weight) - blocks['channel'](cell_mean(student, weight))
    drawn = teacher.mean(1, keepdim=True) - blocks['spatial'](student.mean(1, keepdim=True))
    related = blocks['relation'](blocks['student_relation'](student, weight))
    related = blocks['teacher_relation'](teacher, weight) - related
    norm = torch.linalg.vector_norm
    return (
        alpha * norm((teacher - adapted) * importance.sqrt())
        + beta * (norm(pooled * any_cell) + norm(drawn * weight.sqrt()))
        + gamma * norm(related * weight.sqrt())
    )
