from mmkd.registry import MODELS

from .functional.box import box_kd_loss
from .row_loss import RowLoss


@MODELS.register_module()
class BoxKDLoss(RowLoss):
    """1 - overlap of the student's decoded box with the teacher's (as CrossKD, CVPR 2024, does).

    Compares boxes x1 y1 x2 y2 in pixels, [M, 4].

    Args:
        iou: 'giou', which also pulls boxes that do not meet, or 'iou'.

    Raises:
        ValueError: If iou is neither.
    """

    def __init__(self, iou: str = 'giou') -> None:
        super().__init__()
        if iou not in ('giou', 'iou'):
            raise ValueError(f"BoxKDLoss: iou='{iou}' is unknown; choose 'giou' or 'iou'")
        self.iou = iou

    def compare(self, student, teacher, weight, avg_factor):
        return box_kd_loss(student, teacher, weight, avg_factor, self.iou == 'giou')
