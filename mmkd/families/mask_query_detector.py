"""mmdet's Mask2Former and MaskFormer, for panoptic and instance segmentation."""

from functools import partial

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample

from mmkd.registry import FAMILIES

from .cells import pixel_scores
from .detector import Detector
from .mask_queries import (
    listen_to_queries,
    query_criterion,
    query_head,
    said_by_queries,
    why_no_queries,
    with_pixels,
)
from .segmentor_criterion import SegmentorCriterion


@FAMILIES.register_module()
class MaskQueryDetector(Detector):
    """Detectors whose queries predict a class and a mask each.

    Outputs are those of :class:`mmkd.families.mask_query.MaskQuerySegmentor`. Queries of student
    and teacher are matched, since instances are told apart by them alone; with ``matching=None``,
    or a teacher that predicts pixel by pixel, the semantic collapse teaches.
    """

    specificity = 1
    predicts_pixels = True
    gives = Detector.gives | {'scores'}

    @classmethod
    def knows(cls, model):
        return super().knows(model) and query_head(model) is not None

    def head(self, model):
        """The head whose queries are the model's prediction."""
        return model.panoptic_head

    def forward(self, model, inputs, data_samples):
        if self.why_no_logits(model):
            return super().forward(model, inputs, data_samples)
        features = model.extract_feat(inputs)
        size = tuple(inputs.shape[-2:])
        samples = []
        for sample in data_samples:
            shape = sample.metainfo.get('img_shape', size)[:2]
            samples.append(DetDataSample(metainfo=dict(img_shape=shape, batch_input_shape=size)))
        classes, masks = model.panoptic_head(features, samples)
        return said_by_queries(classes, masks, model.training)

    def listen(self, model):
        if self.why_no_logits(model):
            return super().listen(model)
        return listen_to_queries(model.panoptic_head)

    def why_no_logits(self, model):
        return why_no_queries(model.panoptic_head)

    def check_pair(self, student, teacher, teacher_family):
        if not teacher_family.predicts_pixels:
            return f'the student predicts masks, the teacher {teacher_family.kind} does not'
        if getattr(teacher_family.head(teacher), 'out_channels', None) == 1:
            return f'the teacher {teacher_family.kind} is binary with a single map'
        return None

    def criterion(self, student, teacher, losses):
        default = None if query_head(teacher) is None else 'hungarian'
        pixels = partial(SegmentorCriterion, False, False, gives=())
        return query_criterion(student.panoptic_head, teacher, losses, pixels, default)

    def targets(self, teacher, outputs, match, lesson):
        return with_pixels(outputs)

    def score_maps(self, model, outputs):
        return [pixel_scores(with_pixels(outputs)['seg'][0])]

    def num_classes(self, model):
        return model.panoptic_head.num_classes

    def valid_cells(self, model, size, inputs, data_samples):
        valid = super().valid_cells(model, size, inputs, data_samples)
        if not all('gt_sem_seg' in sample for sample in data_samples):
            return valid  # instances alone
        labels = torch.stack([sample.gt_sem_seg.sem_seg for sample in data_samples])
        labels = F.interpolate(labels.float(), size=tuple(size), mode='nearest')
        known = labels < self.num_classes(model)  # void and padding have higher numbers
        return known if valid is None else valid & known
