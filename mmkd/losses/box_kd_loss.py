from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.box import box_kd_loss
from .functional.reduce import resolve_rows


@MODELS.register_module()
class BoxKDLoss(nn.Module):
    """1 - overlap of the student's decoded box with the teacher's (as CrossKD, CVPR 2024, does).

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

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        **context,
    ) -> Tensor:
        """Compare boxes x1 y1 x2 y2, in pixels.

        Args:
            student: [M, 4].
            teacher: [M, 4].
            mask: [M] or [M, 1]; what counts, and by its sum, averaged over ranks, the divisor.
            weight: [M] or [M, 1]; leaves the divisor alone; not together with mask.
            avg_factor: Divisor; None: the sum of the mask, or the number of boxes.
            **context: Not used.

        Returns:
            Scalar.
        """
        weight, avg_factor = resolve_rows(student, mask, weight, avg_factor)
        generalized = self.iou == 'giou'
        return box_kd_loss(student, teacher, weight, avg_factor, generalized)
