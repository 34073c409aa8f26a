from functools import partial

from torch import Tensor, nn

from mmkd.registry import MODELS

from .attention_fusion import AttentionFusion
from .functional.cells import counting_cells
from .functional.common import check_count, full_precision
from .functional.review import hierarchical_context_loss


@MODELS.register_module()
class ReviewKDLoss(nn.Module):
    """Deeper maps of the student help to match the teacher's (ReviewKD: Chen et al., CVPR 2021).

    From the deepest level to the shallowest each map goes through a 1x1 convolution, is joined with
    what came from the deeper levels by a learnt attention between the two, and is compared, after a
    3x3 convolution, by :func:`mmkd.losses.functional.hierarchical_context_loss`; levels are summed.
    Each convolution has a BatchNorm, whose statistics are those of the rank's own batch: several
    processes differ from one on the concatenated batch. Padded and ignored cells are out of these
    statistics and of every mean, and give 0 to their neighbours.

    Published weights: Faster R-CNN R101 -> R50 1, R101 -> R18 1.2, R50 -> MobileNetV2 2; Mask R-CNN
    0.8, 1.5, 1; RetinaNet 1, all outputs of the FPN.

    Args:
        width: Channels of what goes from level to level.

    Raises:
        ValueError: If width is not positive.
    """

    any_channels = True
    takes_levels = True

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        check_count('ReviewKDLoss: width', width)
        self.width = width

    def prepare(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        """Make each level's fusion from the student's channels to the teacher's."""
        last = len(student) - 1
        self.fusions = nn.ModuleList(
            AttentionFusion(mine.shape[1], self.width, other.shape[1], deepest=level == last)
            for level, (mine, other) in enumerate(zip(student, teacher))
        )

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: list[Tensor] | None = None,
        **context,
    ) -> Tensor:
        """Compare pyramids.

        Args:
            student: By level [B, C, H, W], the finest first.
            teacher: By level [B, C', H, W].
            mask: By level [B, H, W] or [B, 1, H, W] weights of cells.
            **context: Not used.

        Returns:
            Scalar, in squared units of the feature.
        """
        masks = [None] * len(student) if mask is None else mask
        levels = list(zip(student, teacher, self.fusions, masks, strict=True))
        total, deeper = 0.0, None
        for x, y, fuse, cells in reversed(levels):
            value, deeper = review_kd(x, y, fuse, deeper, cells)
            total = total + value
        return total


@partial(full_precision, any_channels=True)
def review_kd(
    student: Tensor, teacher: Tensor, fuse: nn.Module, deeper: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    student, _, weight = counting_cells('ReviewKDLoss', student, teacher, mask)
    fused, deeper = fuse(student, weight, deeper)
    return hierarchical_context_loss(fused, teacher, mask), deeper
