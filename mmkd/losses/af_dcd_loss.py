from torch import Tensor, nn

from mmkd.registry import MODELS

from .functional.common import check_count, check_positive
from .functional.masked_generation import af_dcd_loss
from .masked_generation import MaskedGeneration, check_mask_ratio


@MODELS.register_module()
class AfDCDLoss(nn.Module):
    """Masked feature generation with a dense contrast that needs no augmentation (Af-DCD).

    Fan et al., NeurIPS 2023. MGD's block makes the teacher's map of the student's, of which a
    random share of cells is left, see :class:`mmkd.losses.masked_generation.MaskedGeneration`;
    compared are the sum of squares per image, and each token (a group of channels in a cell) with
    the teacher's tokens of other groups in its patch, summed over tokens, per pooled cell and
    image; B is the rank's own. Formula and divisors:
    :func:`mmkd.losses.functional.masked_generation.dense_contrast`.

    Any size goes: the official code needs H and W to be multiples of 16 and C of 16, or crops; here
    maps are padded, and padding and ignored cells are in no sum. It also calls a 1x1 convolution
    that it makes only where channels differ: here that is the term's adapter.

    Published: stage 4 of the backbone (``tap='backbone[3]'``), term weight 1 beside pixel-wise KD
    (weight 1; 0.5 on ADE20K and COCO-Stuff). ``feature_weight`` and ``contrast_weight``: Cityscapes
    2e-6 and 5e-3, ADE20K 1e-6 and 0.04, COCO-Stuff 5e-6 and 5e-3, VOC 1e-6 and 5e-3, CamVid 8e-6
    and 0.01. It clips the block's gradients at a norm of 15; clipping here is the optimizer's.

    Args:
        feature_weight: Of the squared differences, which grow with C H W.
        contrast_weight: Of the contrast.
        mask_ratio: Share of cells that the block does not see.
        tau: Temperature of the contrast.
        groups: Groups of channels.
        pool: Side of the max pooling before the contrast; 1: none.
        patch: Side of a patch, in pooled cells.

    Raises:
        ValueError: If a number is outside its range.
    """

    def __init__(
        self, feature_weight: float = 2e-6, contrast_weight: float = 5e-3, mask_ratio: float = 0.75,
        tau: float = 0.07, groups: int = 16, pool: int = 4, patch: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        check_positive('AfDCDLoss: tau', tau)
        for name, value in dict(groups=groups, pool=pool, patch=patch).items():
            check_count(f'AfDCDLoss: {name}', value)
        check_mask_ratio('AfDCDLoss', mask_ratio)
        self.mask_ratio = mask_ratio
        self.weights = dict(feature_weight=feature_weight, contrast_weight=contrast_weight)
        self.contrast = dict(tau=tau, groups=groups, pool=pool, patch=patch)

    def prepare(self, student: Tensor, teacher: Tensor) -> None:
        """Makes the block, as wide as the teacher's map [B, C, H, W]."""
        self.generate = MaskedGeneration(teacher.shape[1], self.mask_ratio)

    def forward(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, **context
    ) -> Tensor:
        """Compare feature maps.

        Args:
            student: [B, C, H, W].
            teacher: [B, C, H, W].
            mask: [B, H, W] or [B, 1, H, W] weights of cells; where it is 0 the block sees 0.
            **context: Not used.

        Returns:
            Scalar.
        """
        return af_dcd_loss(student, teacher, self.generate, mask, **self.weights, **self.contrast)
