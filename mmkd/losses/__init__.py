"""The registered losses: ``loss(student, teacher, **context) -> scalar``."""

from .af_dcd_loss import AfDCDLoss
from .at_loss import ATLoss
from .binary_kl_divergence import BinaryKLDivergence
from .box_kd_loss import BoxKDLoss
from .channel_wise_divergence import ChannelWiseDivergence
from .cosine_feature_loss import CosineFeatureLoss
from .cross_image_memory_loss import CrossImageMemoryLoss
from .cross_image_pixel_loss import CrossImagePixelLoss
from .defeat_loss import DeFeatLoss
from .dice_kd_loss import DiceKDLoss
from .dist_loss import DISTLoss
from .dkd_loss import DKDLoss
from .fbkd_loss import FBKDLoss
from .feature_mse import FeatureMSE
from .fgd_loss import FGDLoss
from .frs_class_loss import FRSClassLoss
from .frs_loss import FRSLoss
from .ifv_loss import IFVLoss
from .kd_quality_focal_loss import KDQualityFocalLoss
from .kl_divergence import KLDivergence
from .ld_loss import LDLoss
from .localization_self_kd import LocalizationSelfKD
from .mgd_loss import MGDLoss
from .nkd_loss import NKDLoss
from .ofa_loss import OFALoss
from .pairwise_affinity_loss import PairwiseAffinityLoss
from .pkd_loss import PKDLoss
from .review_kd_loss import ReviewKDLoss

__all__ = [
    'ATLoss',
    'AfDCDLoss',
    'BinaryKLDivergence',
    'BoxKDLoss',
    'ChannelWiseDivergence',
    'CosineFeatureLoss',
    'CrossImageMemoryLoss',
    'CrossImagePixelLoss',
    'DISTLoss',
    'DKDLoss',
    'DeFeatLoss',
    'DiceKDLoss',
    'FBKDLoss',
    'FGDLoss',
    'FRSClassLoss',
    'FRSLoss',
    'FeatureMSE',
    'IFVLoss',
    'KDQualityFocalLoss',
    'KLDivergence',
    'LDLoss',
    'LocalizationSelfKD',
    'MGDLoss',
    'NKDLoss',
    'OFALoss',
    'PKDLoss',
    'PairwiseAffinityLoss',
    'ReviewKDLoss',
]
