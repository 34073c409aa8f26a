from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_count
from .functional.normalised import cosine_feature_loss


@MODELS.register_module()
class CosineFeatureLoss(nn.Module):
    """1 - cosine of each token's channel vector with the teacher's, mean over tokens.

    Blind to each token's length: for teachers whose features have a scale of their own, such as
    DINO models. RT-DETRv4 (2025) teaches its encoder's last map so through a linear layer, and
    holds its share of the gradient at 2 % instead of a weight; Ultralytics (2026) one map of the
    backbone. The term's adapter brings the channels to the teacher's.

    Args:
        pool: Side, in cells, of the windows whose mean is a token; 1: each cell. Where the
            student's cells are coarser than the teacher's the adapter interpolates them; pooled by
            that ratio, the teacher's are averaged down to the student's instead.

    Raises:
        ValueError: If pool is not a whole number above 0.
    """

    def __init__(self, pool: int = 1) -> None:
        super().__init__()
        check_count('CosineFeatureLoss: pool', pool)
        self.pool = pool

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C, H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells; a token is the mean of its valid
                cells, its weight their share, the divisor the sum of these, averaged over ranks.
            **context: Not used.

        Returns:
            Scalar, without unit.
        """
        return cosine_feature_loss(student, teacher, mask, self.pool)
