from mmkd.registry import MODELS

from .functional.mask_query import dice_kd_loss
from .row_loss import RowLoss


@MODELS.register_module()
class DiceKDLoss(RowLoss):
    """Dice between the student's and the teacher's soft mask, mean over masks.

    ``1 - (2 sum ab + 1) / (sum a^2 + sum b^2 + 1)``, a and b the sigmoids of the logits: V-Net's
    form (Milletari et al., 3DV 2016). Its least value, 0, is where the masks are equal; the form of
    Mask2Former's own loss, with sums in the divisor, would sharpen a soft target to 0 and 1.

    Compares mask logits [M, P], a row per mask. Weight 5, as Mask2Former has for the labels.
    """

    def compare(self, student, teacher, weight, avg_factor):
        return dice_kd_loss(student, teacher, weight, avg_factor)
