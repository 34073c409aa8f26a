from mmkd.registry import MODELS

from .functional.feature import feature_mse
from .row_loss import RowLoss


@MODELS.register_module()
class FeatureMSE(RowLoss):
    """Mean squared difference over elements (FitNets: Romero et al., ICLR 2015).

    Compares feature maps [B, C, H, W], in squared units of the feature. The divisor is the sum of
    the mask, averaged over ranks, times C. Published weights of this form: 10 for segmentors, after
    the ASPP (CIRKD's scripts), 1 on each of 5 outputs of an FPN (DIST's mimicking).
    """

    def compare(self, student, teacher, weight, avg_factor):
        return feature_mse(student, teacher, weight, avg_factor)
