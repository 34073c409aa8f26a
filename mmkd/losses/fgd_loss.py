from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_positive
from .functional.fgd import fgd_loss
from .global_context import GlobalContext


@MODELS.register_module()
class FGDLoss(nn.Module):
    """Objects, background, attention and global relation (FGD: Yang et al., CVPR 2022).

    ``alpha * L_fg + beta * L_bg + gamma * L_att + lambda_ * L_glob``, see
    :func:`mmkd.losses.functional.fgd_loss`; each is a sum over an image, divided by the rank's B,
    so that several processes with as many images each teach like one. The two blocks of the global
    relation are trained, the teacher's too, and begin as the identity.

    Published, by level and with gradients clipped at a norm of 35 (alpha, beta, gamma, lambda_):
    RetinaNet, GFL, SOLO 1e-3, 5e-4, 5e-4, 5e-6; two-stage 5e-5, 2.5e-5, 5e-5, 5e-7; RepPoints and
    FCOS 1.6e-3, 8e-4, 8e-4, 8e-6 (FCOS tau=0.8); YOLOX 2e-3, 1e-3, 1e-3, 1e-5.

    Mended here: the official masks divide boxes by the unpadded image's size and multiply them by
    the padded map's, so that they are stretched in images smaller than the batch's canvas; padded
    and ignored cells take part in the attentions; an object at the border is divided by cells that
    the map does not have; gamma defaults to 1e-3 beside configs of 5e-4.

    Args:
        tau: Temperature of the attentions.
        alpha: Of the objects.
        beta: Of the background.
        gamma: Of the attentions.
        lambda_: Of the global relation.

    Raises:
        ValueError: If tau is not positive.
    """

    asks = ('boxes', 'canvas')

    def __init__(
        self,
        tau: float = 0.5,
        alpha: float = 1e-3,
        beta: float = 5e-4,
        gamma: float = 5e-4,
        lambda_: float = 5e-6,
    ) -> None:
        super().__init__()
        check_positive('FGDLoss: tau', tau)
        self.ratios = dict(tau=tau, alpha=alpha, beta=beta, gamma=gamma, lambda_=lambda_)

    def prepare(self, student: Tensor, teacher: Tensor) -> None:
        """Make the blocks of the global relation, as wide as the teacher's map [B, C, H, W]."""
        self.relate_student = GlobalContext(teacher.shape[1])
        self.relate_teacher = GlobalContext(teacher.shape[1])

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        *,
        boxes: list[Tensor],
        canvas: tuple[int, int],
        **context,
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C, H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells.
            boxes: By image [n, 4], corners in pixels.
            canvas: Height and width of the padded batch in pixels.
            **context: Not used.

        Returns:
            Scalar.
        """
        relate = self.relate_student, self.relate_teacher
        return fgd_loss(student, teacher, boxes, canvas, *relate, mask, **self.ratios)
