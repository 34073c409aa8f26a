"""The registered losses: ``loss(student, teacher, **context) -> scalar``."""

from .binary_kl_divergence import BinaryKLDivergence
from .box_kd_loss import BoxKDLoss
from .channel_wise_divergence import ChannelWiseDivergence
from .feature_mse import FeatureMSE
from .kd_quality_focal_loss import KDQualityFocalLoss
from .kl_divergence import KLDivergence
from .ld_loss import LDLoss
from .pkd_loss import PKDLoss

__all__ = [
    'BinaryKLDivergence',
    'BoxKDLoss',
    'ChannelWiseDivergence',
    'FeatureMSE',
    'KDQualityFocalLoss',
    'KLDivergence',
    'LDLoss',
    'PKDLoss',
]
