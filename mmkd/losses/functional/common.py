"""What every loss shares: precision, shape checks, rows and their weights.

A *row* is one distribution: everything except dim 1 of ``[N, K, ...]``.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of a piece in `sum_of_pieces`: what fits a CPU's cache, what fills a GPU.
_PIECE_ON_CPU, _PIECE = 2**17, 2**24


def full_precision(
    loss: Callable[..., Tensor], any_channels: bool = False
) -> Callable[..., Tensor]:
    """Make ``loss(student, teacher, ...)`` compute in fp32 outside autocast, teacher detached.

    float64 inputs stay float64. Raises a ``ValueError`` where the two shapes differ; with
    ``any_channels`` dim 1 may.
    """

    def comparable(x: Tensor) -> torch.Size:
        return x.shape[:1] + x.shape[2:] if any_channels else x.shape

    @wraps(loss)
    def wrapper(student: Tensor, teacher: Tensor, *args, **kwargs) -> Tensor:
        if comparable(student) != comparable(teacher):
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


def check_count(name: str, value: int) -> None:
    """Raise a ``ValueError`` unless the argument called ``name`` is a whole number above 0."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name}={value!r} must be a positive whole number')


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


def exclude(x: Tensor, out: Tensor) -> Tensor:
    """The lowest finite number where ``out`` is true, for a softmax or a maximum.

    It has probability 0 as -inf has, but no inf - inf in any gradient.
    """
    return x.masked_fill(out, torch.finfo(x.dtype).min)


def divided(total: Tensor, count: Tensor) -> Tensor:
    """``total / count``; the total itself where the count is 0."""
    return total / torch.where(count > 0, count, 1.0)


def mean_rows_of(
    rule: Callable[..., Tensor],
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | float | None,
    scale: float = 1.0,
    label: Tensor | None = None,
) -> Tensor:
    """``scale * sum(weight * rule(student, teacher)) / avg_factor``; 0, with a graph, of no rows.

    Args:
        rule: takes pieces of the two (and of the label, where there is one), gives [N, K, ...] or
            [N, 1, ...], each row by itself.
        student: [N, K, ...].
        teacher: [N, K, ...].
        weight: [N, K, ...] or [N, 1, ...]; both inputs are 0 where it is.
        avg_factor: What to divide by; None: the number of rows. Where it is 0, 1 is taken.
        scale: A constant factor.
        label: [N, 1, ...], what else a rule must know of each row.

    Returns:
        Scalar. It can be differentiated once.
    """

    def weighted(
        student: Tensor, teacher: Tensor, weight: Tensor | None, label: Tensor | None
    ) -> Tensor:
        rows = silence(student, teacher, weight)
        values = rule(*rows) if label is None else rule(*rows, label)
        return values if weight is None else values * weight

    dim = 0 if student.dim() == 2 else 2
    total = sum_of_pieces(weighted, student, teacher, weight, dim, label)
    return _divide(total, student, avg_factor, scale)


def mean_channels_of(
    rule: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    avg_factor: Tensor | float | None,
    scale: float = 1.0,
) -> Tensor:
    """As :func:`mean_rows_of`, for a rule that treats each channel by itself and gets the mask."""
    total = sum_of_pieces(rule, student, teacher, mask, dim=1)
    return _divide(total, student, avg_factor, scale / max(student.shape[1], 1))


@torch.compiler.disable
def sum_of_pieces(
    rule: Callable[..., Tensor],
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | None,
    dim: int,
    *more: Tensor | None,
) -> Tensor:
    """``rule(student, teacher, weight, *more).sum()``, cut along ``dim``.

    Value and gradient of a piece are computed together while it is in the cache, and one gradient
    is kept. Elementary operations over the class logits of a million anchors would each keep a
    tensor of that size until the backward pass, and read it from memory again.

    Args:
        rule: gives values of any shape.
        student: gets the gradient.
        teacher: Like student.
        weight: Like them, or of size 1 along ``dim``: then each piece sees all of it.
        dim: The rule must not mix what lies apart along it.
        *more: Cut as weight is.

    Returns:
        Scalar. It can be differentiated once.
    """
    return _SumOfPieces.apply(rule, dim, student, teacher, weight, *more)


def _divide(
    total: Tensor, values: Tensor, avg_factor: Tensor | float | None, scale: float
) -> Tensor:
    if avg_factor is None:
        avg_factor = values.shape[0] * values.shape[2:].numel()
    count = torch.as_tensor(avg_factor, dtype=total.dtype, device=total.device).detach()
    return scale * divided(total, count)


class _SumOfPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rule, dim, student, *others):
        size = student.shape[dim]
        most = _PIECE_ON_CPU if student.device.type == 'cpu' else _PIECE
        step = max(most * size // max(student.numel(), 1), 1)
        learns = ctx.needs_input_grad[2]
        total = student.new_zeros(())
        gradient = torch.empty_like(student) if learns else None
        for begin in range(0, size, step):
            length = min(step, size - begin)
            piece, *rest = (
                x if x is None or x.shape[dim] == 1 else x.narrow(dim, begin, length)
                for x in (student.detach(), *others)
            )
            with torch.set_grad_enabled(learns):
                value = rule(piece.requires_grad_(learns), *rest).sum()
            total += value.detach()
            if learns:
                gradient.narrow(dim, begin, length).copy_(*torch.autograd.grad(value, piece))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        (gradient,) = ctx.saved_tensors
        return None, None, gradient * slope, *(None for _ in ctx.needs_input_grad[3:])
