"""mmseg's mask-classification segmentors: Mask2Former and MaskFormer."""

import math

from mmseg.models.losses.cross_entropy_loss import cross_entropy
from mmseg.structures import SegDataSample

from mmkd.registry import FAMILIES

from .family import Predictions
from .mask_queries import (
    listen_to_queries,
    query_criterion,
    query_head,
    said_by_queries,
    why_no_collapse,
    why_no_queries,
    with_pixels,
)
from .segmentor import Segmentor


@FAMILIES.register_module()
class MaskQuerySegmentor(Segmentor):
    """Segmentors whose queries predict a class and a mask each, which mmseg takes from mmdet.

    A student's final predictions are, by layer, ``query`` ``[B, Q, K + 1]`` and ``mask``
    ``[B, Q, h, w]``. A teacher gives its last layer's, and ``seg`` ``[B, K, h, w]``, logits of
    their collapse, by which it teaches any segmentor. Exits predict pixel by pixel.
    """

    specificity = 2

    @classmethod
    def knows(cls, model):
        return super().knows(model) and query_head(model) is not None

    def forward(self, model, inputs, data_samples):
        features = model.extract_feat(inputs)
        if self.why_no_logits(model):
            return Predictions()
        size = tuple(inputs.shape[-2:])
        whole = SegDataSample(metainfo=dict(img_shape=size, batch_input_shape=size))
        classes, masks = model.decode_head(features, [whole] * len(inputs))
        return said_by_queries(classes, masks, model.training)

    def listen(self, model):
        if self.why_no_logits(model):
            return super().listen(model)
        return listen_to_queries(model.decode_head)

    def why_no_logits(self, model):
        return why_no_queries(model.decode_head) or why_no_collapse(model.decode_head)

    def criterion(self, student, teacher, losses):
        def pixels(overrides):
            return self.exit_criterion(student, teacher, overrides)

        return query_criterion(student.decode_head, teacher, losses, pixels)

    def exit_criterion(self, student, teacher, losses):
        return super().criterion(student, teacher, losses)

    def targets(self, teacher, outputs, match, lesson):
        return with_pixels(outputs)

    def score_maps(self, model, outputs):
        return super().score_maps(model, with_pixels(outputs))

    def branch_style(self, head, width):
        width = width or head.cls_embed.in_features
        return width, dict(type='GN', num_groups=math.gcd(width, 32))

    def ground_truth_losses(self, head, outputs, predictions):
        # its own head has no loss of pixels; ignored ones are out of the mean
        logits, labels = self.at_labels(head, outputs, predictions)
        value = cross_entropy(logits, labels, ignore_index=head.ignore_index, avg_non_ignore=True)
        return dict(loss_ce=value)
