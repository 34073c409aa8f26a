from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.frs import frs_loss


@MODELS.register_module()
class FRSLoss(nn.Module):
    """Features where the teacher sees something, whatever the labels say (FRS: NeurIPS 2021).

    ``sum(m * |conv3x3(student) - teacher|^2) / sum(m)`` by level, squares summed over channels, m
    the teacher's highest class score in a cell; sum(m) is averaged over ranks. The convolution is
    trained (Du et al., "Distilling Object Detectors with Feature Richness").

    Published weights of this and of :class:`FRSClassLoss`, over a linear warm-up of 500 iterations:
    RetinaNet 0.005, 0.02; FCOS 0.01, 0.05; GFL 0.1, 0.05; two-stage by the scores of the RPN 0.002,
    0.1. Mended here: the official convolution ends in a ReLU, though what it is compared with has
    negative values; padded and ignored cells are out.
    """

    asks = ('scores',)
    any_channels = True

    def prepare(self, student: Tensor, teacher: Tensor) -> None:
        """Make the convolution from the student's channels to the teacher's [B, C, H, W]."""
        self.adapt = nn.Conv2d(student.shape[1], teacher.shape[1], 3, padding=1)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None = None,
        *,
        scores: Tensor,
        **context,
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C', H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells, beside the scores.
            scores: [B, 1, H, W], in [0, 1].
            **context: Not used.

        Returns:
            Scalar, in squared units of the feature.
        """
        return frs_loss(student, teacher, scores, self.adapt, mask)
