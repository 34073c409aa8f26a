"""Pure maths of what passes from a teacher to a student; torch only, nothing is trained by it."""

from .agreement import Agreement, Remainder, remainder
from .boxes import Detections, box_iou, cell_classes, match
from .calibration import Calibration, bin_of
from .cka import LinearCKA
from .probe import LinearProbe
from .scores import AveragePrecision, MeanIoU

__all__ = [
    'Agreement',
    'AveragePrecision',
    'Calibration',
    'Detections',
    'LinearCKA',
    'LinearProbe',
    'MeanIoU',
    'Remainder',
    'bin_of',
    'box_iou',
    'cell_classes',
    'match',
    'remainder',
]
