"""What mmdet's dense heads say: which maps, in which form, and where the boxes lie."""

import torch
from mmdet.models.dense_heads import (
    ATSSHead,
    FCOSHead,
    GFLHead,
    PAAHead,
    RepPointsHead,
    RetinaHead,
    RTMDetHead,
    TOODHead,
    VFNetHead,
    YOLOXHead,
)
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

# What each head's loss takes, in its order; `initial` boxes, which `box` refines, are made in
# training only.
KINDS = {
    ATSSHead: ('cls', 'box', 'centerness'),
    FCOSHead: ('cls', 'box', 'centerness'),
    GFLHead: ('cls', 'box'),
    PAAHead: ('cls', 'box', 'iou'),
    RepPointsHead: ('cls', 'initial', 'box'),
    RetinaHead: ('cls', 'box'),
    RTMDetHead: ('cls', 'box'),
    TOODHead: ('cls', 'box'),
    VFNetHead: ('cls', 'initial', 'box'),
    YOLOXHead: ('cls', 'box', 'objectness'),
}
_EPS = 1e-6


def stock_type(head: nn.Module) -> type | None:
    """The known head class whose losses this head uses unchanged."""
    for known in KINDS:
        if isinstance(head, known) and type(head).loss_by_feat is known.loss_by_feat:
            return known
    return None


def by_kind(head: nn.Module, outputs) -> dict[str, list[Tensor]]:
    """A head's raw outputs by kind, as it gives them in the mode that it is in."""
    kinds = [k for k in KINDS[stock_type(head)] if head.training or k != 'initial']
    return {kind: list(maps) for kind, maps in zip(kinds, outputs)}


def class_logits(head: nn.Module, outputs: dict) -> list[Tensor]:
    """Class logits before a sigmoid, by level ``[B, A*K, H, W]``; TOOD gives probabilities."""
    if stock_type(head) is TOODHead:
        return [torch.logit(x.float(), eps=_EPS) for x in outputs['cls']]
    return outputs['cls']


def score_logits(head: nn.Module, outputs: dict) -> list[Tensor]:
    """As :func:`class_logits`, of the final scores: YOLOX's classes times its objectness."""
    logits = class_logits(head, outputs)
    if 'objectness' not in outputs:
        return logits
    scores = []
    for cls, there in zip(logits, outputs['objectness'], strict=True):
        log = logsigmoid(cls.float()) + logsigmoid(there.float())
        log = log.clamp(max=-_EPS)
        scores.append(log - (-torch.expm1(log)).log())
    return scores


def decode(head: nn.Module, maps: list[Tensor], training: bool, levels=None) -> Tensor:
    """Boxes in pixels ``[M, 4]`` from raw box maps, by the head's own priors and coder.

    Args:
        head: the head that made the maps.
        maps: per level ``[B, A*4, H, W]`` (GFL: ``[B, 4*(n+1), H, W]``; RepPoints in training: x
            and y of its points).
        training: whether the head was in training mode (FCOS then leaves out the stride).
        levels: which of the head's levels the maps are; ``None``: all.
    """
    levels = range(len(maps)) if levels is None else levels
    return torch.cat(
        [
            _boxes(head, raw.float(), level, training)
            for level, raw in zip(levels, maps, strict=True)
        ]
    )


def _boxes(head: nn.Module, raw: Tensor, level: int, training: bool) -> Tensor:
    known, stride = stock_type(head), head.prior_generator.strides[level][0]
    if known is TOODHead:
        return flatten([raw], 4) * stride
    prior = head.prior_generator.single_level_grid_priors(
        tuple(raw.shape[-2:]), level, dtype=torch.float32, device=raw.device
    )
    prior = get_box_tensor(prior).repeat(raw.shape[0], 1)
    if known is GFLHead:
        prior = head.anchor_center(prior)
        value = head.integral(flatten([raw], 4 * (head.reg_max + 1))) * stride
    elif known is RepPointsHead:
        value = flatten([head.points2bbox(raw) if training else raw], 4)
        return value * stride + prior.repeat(1, 2)
    else:
        value = flatten([raw], 4)
    if known is YOLOXHead:
        return head._bbox_decode(torch.cat([prior, torch.full_like(prior, stride)], 1), value)
    if known is FCOSHead and training and head.norm_on_bbox:
        value = value * stride
    return get_box_tensor(head.bbox_coder.decode(prior, value))


def flatten(maps: list[Tensor], width: int) -> Tensor:
    """Maps ``[B, A*width, H, W]`` by level -> fp32 rows ``[M, width]``."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, width) for x in maps]).float()
