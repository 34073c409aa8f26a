from mmkd.registry import MODELS

from .functional.frs import frs_class_loss
from .row_loss import RowLoss


@MODELS.register_module()
class FRSClassLoss(RowLoss):
    """BCE to the teacher's scores, weighted by each row's highest one (FRS: Du et al., 2021).

    For ``LogitKD(loss_cls=...)`` of a dense detector, whose divisor is the sum of these weights
    over all levels. A row is an anchor; the official code takes the highest score over the anchors
    of a cell for all of them, and each level's own divisor. Published weights: see FRSLoss.

    Compares logits before a sigmoid, [M, K] (or [N, K, ...]).
    """

    def forward(self, student, teacher, mask=None, weight=None, avg_factor=None, **context):
        """As any loss over rows, but a mask weighs the scores in the divisor too."""
        if weight is None and avg_factor is None:
            mask, weight = None, mask
        return super().forward(student, teacher, mask, weight, avg_factor)

    def compare(self, student, teacher, weight, avg_factor):
        return frs_class_loss(student, teacher, weight, avg_factor)
