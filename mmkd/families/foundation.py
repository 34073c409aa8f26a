"""Foundation models of ``transformers``: features, no final predictions."""

from torch import nn

from mmkd.registry import FAMILIES

from .family import Family
from .foundation_backbone import FoundationBackbone


@FAMILIES.register_module()
class Foundation(Family):
    """Bare backbones; their stages are ``backbone[i]``, maps ``[B, C, H, W]``."""

    gives = frozenset()

    @classmethod
    def knows(cls, model: nn.Module) -> bool:
        return isinstance(model, FoundationBackbone)

    def why_no_logits(self, model):
        return f'{self.kind} is a bare backbone without final predictions'
