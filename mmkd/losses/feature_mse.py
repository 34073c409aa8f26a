from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.feature import feature_mse
from .functional.reduce import resolve_rows


@MODELS.register_module()
class FeatureMSE(nn.Module):
    """Mean squared difference over elements (FitNets: Romero et al., ICLR 2015)."""

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C, H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells; the divisor is its sum, averaged
                over ranks, times C.
            **context: Not used.

        Returns:
            Scalar, in squared units of the feature.
        """
        mask, avg_factor = resolve_rows(student, mask, None, None)
        return feature_mse(student, teacher, mask, avg_factor)
