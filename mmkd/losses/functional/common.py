"""What every loss shares: precision, shape checks, rows and their weights.

A *row* is one distribution: everything except dim 1 of ``[N, K, ...]``.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make ``loss(student, teacher, ...)`` compute in fp32 outside autocast, teacher detached.

    float64 inputs stay float64. Raises a ``ValueError`` where the two shapes differ.
    """

    @wraps(loss)
    def wrapper(student: Tensor, teacher: Tensor, *args, **kwargs) -> Tensor:
        if student.shape != teacher.shape:
            raise ValueError(
                f'{loss.__name__}: student {tuple(student.shape)} and teacher '
                f'{tuple(teacher.shape)} differ in shape; tap tensors of one shape or set an '
                'adapter that joins them'
            )
        with torch.autocast(device_type=student.device.type, enabled=False):
            return loss(promote(student), promote(teacher.detach()), *args, **kwargs)

    return wrapper


def promote(x: Tensor) -> Tensor:
    """Return ``x`` in fp32, or as it is if it has float64."""
    return x if x.dtype == torch.float64 else x.float()


def check_layout(name: str, x: Tensor, num_dims: int, layout: str) -> None:
    """Raise a ``ValueError`` unless ``x`` has ``num_dims`` dimensions."""
    if x.dim() != num_dims:
        raise ValueError(f'{name}: expected {layout}, got shape {tuple(x.shape)}; reshape first')


def check_positive(name: str, value: float) -> None:
    """Raise a ``ValueError`` unless the argument called ``name`` is a finite number above 0."""
    if not 0 < value < float('inf'):
        raise ValueError(f'{name}={value} must be a positive finite number')


def row_weight(x: Tensor, weight: Tensor, per_element: bool = False) -> Tensor:
    """Bring a weight or mask into a shape that broadcasts over dim 1 of ``x``.

    Args:
        x: [N, K, ...].
        weight: [N, ...] or [N, 1, ...]; bool or numbers.
        per_element: Also accept [N, K, ...].

    Returns:
        [N, 1, ...] or [N, K, ...], in fp32 (float64 where ``x`` has it), detached.

    Raises:
        ValueError: If the shape is none of these.
    """
    row_shape = (x.shape[0], *x.shape[2:])
    weight = weight.detach().to(promote(x).dtype)
    if weight.shape == row_shape:
        return weight.unsqueeze(1)
    single = (x.shape[0], 1, *x.shape[2:])
    if weight.shape == single or (per_element and weight.shape == x.shape):
        return weight
    raise ValueError(
        f'weight or mask of shape {tuple(weight.shape)} does not fit predictions of shape '
        f'{tuple(x.shape)}; give {row_shape} or {single}'
    )


def silence(student: Tensor, teacher: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Set what has weight 0 to 0, so that NaN and inf there reach neither value nor gradient."""
    if weight is None:
        return student, teacher
    out = weight == 0
    return student.masked_fill(out, 0), teacher.masked_fill(out, 0)


def mean_rows(
    values: Tensor, weight: Tensor | None, avg_factor: Tensor | float | None, scale: float = 1.0
) -> Tensor:
    """Return ``scale * sum(weight * values) / avg_factor``; 0, with a graph, if there are none.

    Args:
        values: [N, K, ...] or [N, 1, ...].
        weight: Broadcastable to ``values``.
        avg_factor: What to divide by; None: the number of rows. Where it is 0, 1 is taken.
        scale: A constant factor.
    """
    total = values.sum() if weight is None else (values * weight).sum()
    if avg_factor is None:
        avg_factor = values.shape[0] * values.shape[2:].numel()
    avg = torch.as_tensor(avg_factor, dtype=total.dtype, device=total.device).detach()
    return scale * total / torch.where(avg > 0, avg, torch.ones_like(avg))
