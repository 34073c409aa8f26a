"""Focal and global distillation (FGD: Yang et al., CVPR 2022)."""

from collections.abc import Callable

import torch
from torch import Tensor

from .cells import (
    cells_in_boxes,
    channel_attention,
    counting_cells,
    in_cells,
    spatial_attention,
)
from .common import divided, full_precision


@full_precision
def fgd_loss(
    student: Tensor,
    teacher: Tensor,
    boxes: list[Tensor],
    canvas: tuple[int, int],
    relate_student: Callable[[Tensor, Tensor], Tensor],
    relate_teacher: Callable[[Tensor, Tensor], Tensor],
    mask: Tensor | None = None,
    tau: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 5e-4,
    lambda_: float = 5e-6,
) -> Tensor:
    """``alpha * L_fg + beta * L_bg + gamma * L_att + lambda_ * L_glob``, each a sum / B.

    With S the spatial attention, C the channel attention, M the weights of objects or background:

    - ``L_fg``, ``L_bg`` = sum of ``M * S_t * C_t * (student - teacher)^2``;
    - ``L_att`` = sum of ``|C_s - C_t|`` + sum of ``|S_s - S_t|``;
    - ``L_glob`` = sum of ``(relate_student(student) - relate_teacher(teacher))^2``.

    Args:
        student: [B, C, H, W].
        teacher: [B, C, H, W].
        boxes: By image [n, 4], corners in pixels.
        canvas: Height and width of the padded batch in pixels.
        relate_student: Map and weights of its cells -> map.
        relate_teacher: The same for the teacher; it is trained too.
        mask: Weights of cells; cells of weight 0 are in no attention and in no object.
        tau: Temperature of the attentions.
        alpha: Of the objects.
        beta: Of the background.
        gamma: Of the attentions.
        lambda_: Of the global relation.

    Returns:
        Scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    student, teacher, weight = counting_cells('fgd_loss', student, teacher, mask)
    objects, background = object_weights(boxes, canvas, weight)
    spatial, channels = (
        [attend(x, weight, tau) for x in (student, teacher)]
        for attend in (spatial_attention, channel_attention)
    )
    gap = ((student - teacher).square() * channels[1]).sum(1, keepdim=True) * spatial[1]
    focal = (gap * (alpha * objects + beta * background) * weight).sum()
    attention = ((spatial[0] - spatial[1]).abs() * weight).sum()
    attention = attention + (channels[0] - channels[1]).abs().sum()
    relation = relate_student(student, weight) - relate_teacher(teacher, weight)
    relation = (relation.square() * weight).sum()
    return (focal + gamma * attention + lambda_ * relation) / max(student.shape[0], 1)


@torch.no_grad()
def object_weights(
    boxes: list[Tensor], canvas: tuple[int, int], weight: Tensor
) -> tuple[Tensor, Tensor]:
    """FGD's weights of objects and of background.

    A cell in an object weighs 1 / the object's cells, in several the largest; an object has the
    cells from the floor of its first corner to the ceiling of its last, both included, as far as
    they count. A cell in none weighs 1 / the image's cells in none.

    Args:
        boxes: By image [n, 4], corners in pixels.
        canvas: Height and width of the padded batch in pixels.
        weight: [B, 1, H, W]; cells where it is 0 do not count.

    Returns:
        Two maps [B, 1, H, W]; of an image without boxes the first is 0, the second uniform.
    """
    counts = weight[:, 0] != 0
    objects = torch.zeros_like(weight[:, 0])
    for image, cells, own in zip(objects, counts, boxes, strict=True):
        if len(own):
            scaled = in_cells(own, canvas, tuple(image.shape))
            inside = cells_in_boxes(scaled[:, :2].floor(), scaled[:, 2:].ceil(), image.shape)
            inside = (inside & cells).to(image.dtype)
            image.copy_(divided(inside, inside.sum((1, 2), keepdim=True)).amax(0))
    background = ((objects == 0) & counts).to(weight.dtype)
    background = divided(background, background.sum((1, 2), keepdim=True))
    return objects.unsqueeze(1), background.unsqueeze(1)
