"""mmseg's segmentors whose head returns several maps in training and one in prediction."""

from contextlib import contextmanager

from mmseg.models.decode_heads import DDRHead, PIDHead
from torch import nn

from mmkd.registry import FAMILIES

from .segmentor import Segmentor

# Which of its maps in training, and of its losses, is the one that it predicts by.
_FINAL = {PIDHead: 1, DDRHead: 0}


@FAMILIES.register_module()
class BranchedSegmentor(Segmentor):
    """PIDNet and DDRNet; final predictions are the map that is left in prediction.

    PIDNet's is that of the integral branch (I), DDRNet's that of the context branch; the detail and
    boundary maps are the head's own helpers and are not taught.
    """

    specificity = 2

    @classmethod
    def knows(cls, model: nn.Module) -> bool:
        return type(getattr(model, 'decode_head', None)) in _FINAL and Segmentor.knows(model)

    def why_no_logits(self, model):
        return None

    @contextmanager
    def listen_to_head(self, head, predictions):
        with super().listen_to_head(head, predictions):
            yield
        final = _FINAL.get(type(head))
        if final is not None:  # an auxiliary head has one map
            predictions.outputs = dict(seg=[predictions.outputs['seg'][0][final]])

    def ground_truth_losses(self, head, outputs, predictions):
        part = head.loss_decode[_FINAL[type(head)]]
        return dict(loss_sem=part(*self.at_labels(head, outputs, predictions)))
