"""CrossKD's losses as published."""

from dataclasses import replace

import torch
from mmdet.models.dense_heads import FCOSHead, GFLHead
from torch import Tensor

from .dense_assignment import is_positive, label_weights
from .dense_criterion import DenseCriterion, DenseTargets


class CrossCriterion(DenseCriterion):
    """Cross predictions against the teacher's own (CrossKD: Wang et al., CVPR 2024).

    ========= ========================== ====================================== ===================
    head      class, quality-focal loss  box, weighted by the teacher's score    centerness
    ========= ========================== ====================================== ===================
    RetinaNet 1 / positives              1 x (1 - GIoU) / positives
    ATSS      1 / positives              1 x (1 - GIoU) / positives              1 x BCE / positives
    GFL       1 / positives              4 x KL of the bins, mean over 4 sides,
                                         / sum of the scores
    FCOS      0.4 / sum of centerness    0.75 x (1 - IoU) / sum of centerness
    ========= ========================== ====================================== ===================

    Positives and centerness are those of the student's labels; anchors whose label does not count
    do not count here. The official divisors of GFL are rank-local and not clamped, FCOS's is
    clamped at 1e-6, with which an image without labels would weigh a million times: here all are
    means over ranks and at least 1. Its FCOS has mmdet's ``-log(IoU)``, the same to first order
    where boxes agree.

    Args:
        student_head: the student's head, which assigns the labels.
        teacher_head: the teacher's, which made all predictions.
        losses: as :class:`DenseCriterion` takes them; ``avg_factor='published'`` by default.
    """

    divisors = ('published', 'teacher_score', 'num_pos')

    def __init__(self, student_head, teacher_head, losses: dict) -> None:
        super().__init__(student_head, teacher_head, losses)
        self.needs_labels = True  # to know the anchors whose label does not count

    def defaults(self, head, besides):
        losses = dict(
            loss_cls=dict(type='KDQualityFocalLoss'),
            loss_bbox=dict(type='BoxKDLoss', iou='giou'),
            **dict.fromkeys(besides),
        )
        if head is GFLHead:
            losses['loss_bbox'] = None
            losses['loss_dfl'] = dict(type='LDLoss', tau=1.0, loss_weight=4.0)
        elif head is FCOSHead:
            losses['loss_cls']['loss_weight'] = 0.4
            losses['loss_bbox'] = dict(type='BoxKDLoss', iou='iou', loss_weight=0.75)
        elif 'loss_centerness' in besides:
            losses['loss_centerness'] = dict(type='KDQualityFocalLoss', beta=0.0)  # that is BCE
        self._by_centerness = head is FCOSHead
        return losses

    def forward(
        self, student, teacher: DenseTargets, match, lesson, teacher_head=None, levels=None
    ):
        head, targets = lesson.student_model.bbox_head, lesson.student.predictions.targets
        counts = label_weights(head, targets)
        if counts is not None:
            teacher = replace(teacher, score=teacher.score * counts, valid=teacher.valid * counts)
        return super().forward(student, teacher, match, lesson, teacher_head, levels)

    def rule(self, name):
        if self.avg_factor != 'published':
            return self.avg_factor
        if self._by_centerness:
            return 'centerness'
        return 'teacher_score' if name == 'loss_dfl' else 'num_pos'

    def weight(self, name, teacher, lesson):
        if name == 'loss_centerness':
            head, targets = lesson.student_model.bbox_head, lesson.student.predictions.targets
            return is_positive(head, targets) * teacher.valid
        return super().weight(name, teacher, lesson)

    def count(self, rule, teacher, lesson) -> Tensor:
        if rule != 'centerness':
            return super().count(rule, teacher, lesson)
        head, targets = lesson.student_model.bbox_head, lesson.student.predictions.targets
        boxes = torch.cat(targets.results['get_targets'][-1][1])
        return head.centerness_target(boxes[is_positive(head, targets) > 0]).sum()
