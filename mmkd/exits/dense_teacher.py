"""What exits ask of a teacher that has to be a dense detector."""

from mmdet.models.detectors.base import BaseDetector
from torch import nn


def check_dense_teacher(part, student: nn.Module, teacher) -> None:
    """Refuses what cannot be taught by a dense detector's own priors or layers.

    Args:
        part: the exit.
        student: the plain student; its own head plays no part.
        teacher: the teacher.

    Raises:
        ValueError: for a student that is no detector, or a teacher whose head is not known.
    """
    if not isinstance(student, BaseDetector):
        raise ValueError(
            f'{part.where}: {type(part).__name__} needs a detector, not {type(student).__name__}; '
            'use SegExit'
        )
    if reason := teacher.family.why_no_cells(teacher.model):
        raise ValueError(
            f'{part.where}: the teacher must be a RetinaNet, FCOS, ATSS, GFL, PAA, VFNet, TOOD, '
            f'RepPoints, RTMDet, YOLOX or DINO with its stock head ({reason}); or distil features '
            '(FeatureKD)'
        )
