"""A student's maps through the towers of a frozen dense head."""

from functools import partial

import torch
from mmdet.models.dense_heads import ATSSHead, FCOSHead, GFLHead, RetinaHead
from torch import Tensor, nn

from .family import replaced

# What each head's `forward_single` takes beside a level's map: attributes with one item per level.
_PER_LEVEL = {
    GFLHead: ('scales',),
    ATSSHead: ('scales',),
    FCOSHead: ('scales', 'strides'),
    RetinaHead: (),
}
_TOWERS = ('cls_convs', 'reg_convs')
_EPS = 1e-5  # of a variance, as in BatchNorm


def tower_inputs(head: nn.Module, start: int, who: str) -> tuple[list[str], int]:
    """Where the maps are after ``start`` convs of the class and the box tower, and their channels.

    They are taken before the activation, which is then the first layer that follows.

    Args:
        head: a dense head.
        start: a number of convolutions.
        who: whose it is, in an error.

    Raises:
        ValueError: if the towers have fewer convolutions, or are run in a way of their own.
    """
    name = f"the {who}'s {type(head).__name__}"
    if _known(head) is None:
        raise ValueError(f'{name} runs its layers in a way of its own; use SemanticExit')
    depth = min(len(getattr(head, tower)) for tower in _TOWERS)
    if start > depth:
        key = 'start' if who == 'teacher' else f'{who}_start'
        raise ValueError(
            f'{key}={start}, but the towers of {name} have {depth} convolutions; write {key}=0 to '
            f'{depth}'
        )
    if start == 0:
        return ['bbox_head:in'] * 2, head.in_channels
    addresses = [f'bbox_head.{tower}.{start - 1}.activate:in' for tower in _TOWERS]
    return addresses, head.feat_channels


def cross_outputs(head: nn.Module, features, levels, start: int, theirs) -> list[tuple]:
    """Raw outputs of a frozen head, by level, on maps that enter both its towers half-way.

    The head's own ``forward_single`` runs, with its towers shortened; gradients pass through to the
    maps (CrossKD: Wang et al., CVPR 2024).

    Args:
        head: the teacher's head, frozen, in eval mode.
        features: for the class and for the box tower, by level ``[B, C, H, W]``.
        levels: which of the head's levels they are.
        start: convolutions that are skipped.
        theirs: what the teacher itself has there, all levels, for the class and the box tower.
    """
    names = _PER_LEVEL[_known(head)]
    outputs = []
    for *pair, level in zip(*features, levels, strict=True):
        towers = {}
        for name, x, own in zip(_TOWERS, pair, theirs):
            convs = getattr(head, name)
            rest = [convs[start - 1].activate] if start else []
            # what the head hands to both towers is not looked at
            towers[name] = [partial(_enter, align(x, own[level])), *rest, *convs[start:]]
        extra = (getattr(head, name)[level] for name in names)
        with replaced(head, **towers):
            outputs.append(head.forward_single(pair[0], *extra))
    return outputs


def _enter(x: Tensor, _: Tensor) -> Tensor:
    return x


def _known(head: nn.Module) -> type | None:
    """The stock head whose way from a level's map to its outputs this head has."""
    own = type(head)
    for known in _PER_LEVEL:
        # TOOD and RTMDet inherit a `forward_single` that they never call
        if isinstance(head, known) and (own.forward, own.forward_single) == (
            known.forward,
            known.forward_single,
        ):
            return known
    return None


def align(x: Tensor, like: Tensor) -> Tensor:
    """Gives each channel of a map the mean and the standard deviation that ``like`` has.

    Over batch and space, in fp32. Both variances have the same small constant added: a map is left
    alone by itself, and a channel that is constant has a gradient of ordinary size.

    Args:
        x: ``[B, C, H, W]``.
        like: the same shape; detached.
    """
    x, like = x.float(), like.detach().float()
    # one cell has no variance, and the unbiased estimate of it would be NaN
    correction = min(1, x[:, 0].numel() - 1)
    how = dict(dim=(0, 2, 3), keepdim=True, correction=correction)
    variance, mean = torch.var_mean(x, **how)
    wanted, centre = torch.var_mean(like, **how)
    scale = ((wanted + _EPS) / (variance + _EPS)).sqrt()
    # in this order a map that is `like` comes back to the bit
    return x * scale + (centre - mean * scale)
