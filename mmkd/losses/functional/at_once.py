"""Losses whose gradients are taken at once, before the next loss is computed.

What a loss keeps for its backward pass is often several times the size of its inputs. Taken at
once, one gradient an input is all that stays. The numbers are the same; such a loss can be
differentiated once.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .common import promote


@torch.compiler.disable
def losses_at_once(
    losses_of: Callable[[dict], dict[str, Tensor]], outputs: dict[str, list[Tensor]]
) -> dict[str, Tensor]:
    """``losses_of(outputs)`` with the gradients at the outputs.

    Args:
        losses_of: gives scalars by name; must depend on nothing trained but the outputs, which it
            gets in fp32 (a gradient scaler multiplies gradients only in the backward pass, when
            those of half precision would be lost).
        outputs: by kind, level by level, as a head makes them.

    Returns:
        Losses by name.
    """
    names: list[str] = []

    def compute(leaves: list[Tensor]) -> list[Tensor]:
        rest = iter(leaves)
        losses = losses_of({kind: [next(rest) for _ in maps] for kind, maps in outputs.items()})
        names.extend(losses)
        return list(losses.values())

    values = _AtOnce.apply(compute, *(promote(x) for maps in outputs.values() for x in maps))
    return dict(zip(names, values, strict=True))


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, compute, *inputs):
        learns = any(ctx.needs_input_grad)
        with torch.set_grad_enabled(learns):
            leaves = [x.detach().requires_grad_(learns) for x in inputs]
            losses = compute(leaves)
        gradients: list[Tensor | None] = []
        for index, loss in enumerate(losses):
            if loss.requires_grad:
                gradients += torch.autograd.grad(
                    loss,
                    leaves,
                    retain_graph=any(x.requires_grad for x in losses[index + 1 :]),
                    allow_unused=True,
                )
            else:
                gradients += [None] * len(leaves)
        ctx.save_for_backward(*gradients)
        return tuple(loss.detach() for loss in losses)

    @staticmethod
    @once_differentiable
    def backward(ctx, *slopes):
        count = len(ctx.needs_input_grad) - 1
        sums: list[Tensor | None] = [None] * count
        for index, gradient in enumerate(ctx.saved_tensors):
            if gradient is not None:
                part = gradient * slopes[index // count]
                before = sums[index % count]
                sums[index % count] = part if before is None else before.add_(part)
        return None, *sums
