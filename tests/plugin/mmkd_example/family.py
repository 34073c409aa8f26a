from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import CenterNetHead
from torch import nn

from mmkd.families.detector import Detector
from mmkd.families.family import Predictions, replaced
from mmkd.losses.build import build_losses
from mmkd.losses.functional import reduce_mean
from mmkd.registry import FAMILIES


@FAMILIES.register_module()
class CenterNetFamily(Detector):
    """CenterNet; its final prediction is the logit of the heat map, ``cls`` ``[B, K, H, W]``."""

    specificity = 1  # Detector, which knows every mmdet detector, has 0

    @classmethod
    def knows(cls, model):
        return isinstance(getattr(model, 'bbox_head', None), CenterNetHead)

    def forward(self, model, inputs, data_samples):
        heat, _, _ = model.bbox_head(model.extract_feat(inputs))
        return Predictions(outputs=_outputs(heat))

    @contextmanager
    def listen(self, model):
        predictions = Predictions()
        stock = model.bbox_head.loss_by_feat

        def loss_by_feat(heat, sizes, offsets, instances, metas, *args, **kwargs):
            predictions.outputs = _outputs(heat)
            predictions.context = (instances, metas)
            return stock(heat, sizes, offsets, instances, metas, *args, **kwargs)

        with replaced(model.bbox_head, loss_by_feat=loss_by_feat):
            yield predictions

    def why_no_logits(self, model):
        return None

    def check_pair(self, student, teacher, teacher_family):
        if not isinstance(teacher_family, CenterNetFamily):
            return f'the student is a CenterNet, the teacher {teacher_family.kind} is not'
        return None

    def criterion(self, student, teacher, losses):
        return HeatmapCriterion(losses)

    def num_classes(self, model):
        return model.bbox_head.num_classes

    def ground_truth_losses(self, head, outputs, predictions):
        instances, metas = predictions.context
        heat = outputs['cls'][0].sigmoid()
        boxes, labels = [x.bboxes for x in instances], [x.labels for x in instances]
        targets, count = head.get_targets(boxes, labels, heat.shape, metas[0]['batch_input_shape'])
        loss = head.loss_center_heatmap(heat, targets['center_heatmap_target'], avg_factor=count)
        return dict(loss_heat=loss)


class HeatmapCriterion(nn.Module):
    """Binary KL between heat maps, divided by the sum of the teacher's, averaged over ranks."""

    def __init__(self, losses: dict) -> None:
        super().__init__()
        defaults = dict(loss_cls=dict(type='BinaryKLDivergence'))
        self.parts, self.loss_weights = build_losses(losses, defaults)

    def forward(self, student, teacher, match, lesson):
        theirs = match.teacher(teacher['cls'][0], dim=1)
        ours = match.student(student['cls'][0], dim=1)
        ours = F.interpolate(ours, theirs.shape[-2:], mode='bilinear')
        valid = lesson.valid_cells(theirs.shape[-2:])
        valid = torch.ones_like(theirs[:, :1]) if valid is None else valid.float()
        count = reduce_mean((theirs.sigmoid() * valid).sum()).clamp(min=1.0)
        return {
            name: loss(ours, theirs, weight=valid[:, 0], avg_factor=count) * self.loss_weights[name]
            for name, loss in self.parts.items()
        }


def _outputs(heat):
    """The head gives probabilities; terms, exits and regions expect logits."""
    return dict(cls=[torch.logit(x.float(), eps=1e-6) for x in heat])
