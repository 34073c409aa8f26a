"""The registered losses: ``loss(student, teacher, **context) -> scalar``."""

from .af_dcd_loss import AfDCDLoss
from .binary_kl_divergence import BinaryKLDivergence
from .box_kd_loss import BoxKDLoss
from .channel_wise_divergence import ChannelWiseDivergence
from .cross_image_memory_loss import CrossImageMemoryLoss
from .cross_image_pixel_loss import CrossImagePixelLoss
from .defeat_loss import DeFeatLoss
from .fbkd_loss import FBKDLoss
from .dice_kd_loss import DiceKDLoss
from .feature_mse import FeatureMSE
from .fgd_loss import FGDLoss
from .frs_class_loss import FRSClassLoss
from .frs_loss import FRSLoss
from .ifv_loss import IFVLoss
from .kd_quality_focal_loss import KDQualityFocalLoss
from .kl_divergence import KLDivergence
from .ld_loss import LDLoss
from .mgd_loss import MGDLoss
from .pkd_loss import PKDLoss
from .review_kd_loss import ReviewKDLoss

__all__ = [
    'AfDCDLoss',
    'BinaryKLDivergence',
    'BoxKDLoss',
    'ChannelWiseDivergence',
    'CrossImageMemoryLoss',
    'CrossImagePixelLoss',
    'DeFeatLoss',
    'FBKDLoss',
    'FGDLoss',
    'FRSClassLoss',
    'FRSLoss',
    'DiceKDLoss',
    'FeatureMSE',
    'IFVLoss',
    'KDQualityFocalLoss',
    'KLDivergence',
    'LDLoss',
    'MGDLoss',
    'PKDLoss',
    'ReviewKDLoss',
]
