from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.defeat import boxes_by_level, defeat_loss, inside_boxes


@MODELS.register_module()
class DeFeatLoss(nn.Module):
    """Features of objects and of background apart (DeFeat: Guo et al., CVPR 2021).

    ``foreground * mean + background * mean`` of ``(conv3x3(student) - teacher)^2 / 2`` over the
    channels and cells inside labelled boxes, and outside; averaged over levels. A box belongs to
    the one level of its size, see :func:`mmkd.losses.functional.boxes_by_level`. The counts of
    cells are averaged over ranks. The convolutions are trained and begin with a spread of 1e-4.

    Published, with gradients clipped at a norm of 35: foreground 3, background 12 for Faster R-CNN
    on VOC; no config for COCO was released. Padded and ignored cells are out, where the official
    code counts them as background. Its terms of the RoI head are not part of this loss.

    Args:
        foreground: Weight of the objects.
        background: Weight of what is no object.
        finest_scale: Side in pixels from which on an object belongs to the first level.

    Raises:
        ValueError: If finest_scale is not positive.
    """

    asks = ('boxes', 'canvas')
    any_channels = True
    takes_levels = True

    def __init__(
        self, foreground: float = 3.0, background: float = 12.0, finest_scale: float = 56.0
    ) -> None:
        super().__init__()
        check_positive('DeFeatLoss: finest_scale', finest_scale)
        self.ratios = dict(foreground=foreground, background=background)
        self.finest_scale = finest_scale

    def prepare(self, student: list[Tensor], teacher: list[Tensor]) -> None:
        """Make each level's convolution from the student's channels to the teacher's."""
        self.adapt = nn.ModuleList(
            nn.Conv2d(mine.shape[1], other.shape[1], 3, padding=1)
            for mine, other in zip(student, teacher)
        )
        for conv in self.adapt:
            nn.init.trunc_normal_(conv.weight, std=1e-4, a=-2e-4, b=2e-4)

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        mask: list[Tensor] | None = None,
        *,
        boxes: list[Tensor],
        canvas: tuple[int, int],
        **context,
    ) -> Tensor:
        """Compare pyramids.

        Args:
            student: By level [B, C, H, W], the finest first.
            teacher: By level [B, C', H, W].
            mask: By level [B, H, W] or [B, 1, H, W] weights of cells.
            boxes: By image [n, 4], corners in pixels.
            canvas: Height and width of the padded batch in pixels.
            **context: Not used.

        Returns:
            Scalar, in squared units of the feature.
        """
        masks = [None] * len(student) if mask is None else mask
        assigned = boxes_by_level(boxes, len(student), self.finest_scale)
        total = 0.0
        for x, y, own, adapt, cells in zip(
            student, teacher, assigned, self.adapt, masks, strict=True
        ):
            inside = inside_boxes(own, canvas, tuple(x.shape[-2:]))
            total = total + defeat_loss(x, y, inside, adapt, cells, **self.ratios)
        return total / len(student)
