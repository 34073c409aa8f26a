"""What the encoder of a two-stage query-based detector says of each cell."""

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mmdet.models.detectors import DINO
from torch import Tensor, nn

from mmkd.losses.functional import reduce_mean

from .dense_cells import CellTargets


@contextmanager
def hear_encoder(model: nn.Module, encoded: dict):
    """Notes what a two-stage model's encoder says of its cells, and where it proposes no box."""
    if not is_two_stage(model):
        yield
        return

    def propose(module, args):
        encoded['proposes'] = (args[0] != 0).any(-1)  # elsewhere the encoded image is blanked

    def classify(module, args, cls):
        encoded.setdefault('cls', cls)  # layers of the decoder may share the branch

    branch = model.bbox_head.cls_branches[model.decoder.num_layers]
    hooks = [
        model.memory_trans_fc.register_forward_pre_hook(propose),
        branch.register_forward_hook(classify),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def encoder_maps(model: nn.Module, encoded: dict, sizes: list) -> dict[str, list[Tensor]]:
    """Class logits by level, ``dict(cls=[[B, K, H, W]])``; empty for a model without."""
    if not encoded:
        return {}
    cls = encoded['cls'] if isinstance(model, DINO) else encoded['cls'][..., :1]
    cls = cls.masked_fill(~encoded['proposes'][..., None], torch.finfo(cls.dtype).min)
    levels = cls.mT.split([height * width for height, width in sizes], dim=-1)
    return dict(cls=[x.unflatten(-1, size) for x, size in zip(levels, sizes, strict=True)])


def is_two_stage(model: nn.Module) -> bool:
    """Whether a model's encoder proposes the boxes that its decoder begins with."""
    return getattr(model, 'as_two_stage', False)


@torch.no_grad()
def encoder_targets(levels: list[Tensor], match, sizes, lesson) -> CellTargets:
    """A teacher's class logits at the cells of a student's maps.

    As :func:`mmkd.families.dense_cells.cell_targets`; cells where it proposes no box, those at the
    very edge of an image, teach nothing.

    Args:
        levels: the teacher's class maps ``[B, K, H, W]``, lowest where it proposes no box.
        match: which classes both know.
        sizes: by map, ``(H, W)``.
        lesson: the training step.
    """
    cls, valid = [], []
    for size in sizes:
        logits = _nearest(levels, size).float()
        proposes = logits.amax(1, keepdim=True) > torch.finfo(torch.float16).min
        proposes = proposes & _valid(lesson, logits)
        logits = match.teacher(logits, dim=1).masked_fill(~proposes, torch.finfo(logits.dtype).min)
        cls.append(_resized(logits, size))
        valid.append(_resized(proposes.float(), size) * _valid(lesson, cls[-1]))
    total = sum((x.amax(1, keepdim=True).sigmoid() * v).sum() for x, v in zip(cls, valid))
    return CellTargets(cls, valid, reduce_mean(total).clamp(min=1.0))


@torch.no_grad()
def encoder_scores(levels: list[Tensor], size: tuple[int, int]) -> Tensor:
    """A teacher's highest class score in each cell of a map of ``size``, ``[B, 1, H, W]``."""
    scores = _nearest(levels, size).float().amax(1, keepdim=True).sigmoid()
    return _resized(scores, size)


def _nearest(levels: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The level whose size is that of a map, or nearest to it; of two the finer."""
    distances = [abs(math.log2(x.shape[-2] / size[0])) for x in levels]
    return levels[distances.index(min(distances))]


def _valid(lesson, maps: Tensor) -> Tensor:
    mask = lesson.valid_cells(maps.shape[-2:])
    return torch.ones_like(maps[:, :1], dtype=torch.bool) if mask is None else mask


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2] >= size[0] and x.shape[-1] >= size[1]:
        return F.adaptive_max_pool2d(x, size)
    return F.interpolate(x, size, mode='nearest')
