"""What the encoder of a two-stage query-based detector says of each cell."""

from contextlib import contextmanager

import torch
from mmdet.models.detectors import DINO
from torch import Tensor, nn


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
