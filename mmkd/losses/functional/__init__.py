"""The losses as pure functions of tensors; they know torch and nothing else."""

from .at_once import losses_at_once
from .box import box_iou, box_kd_loss
from .feature import channel_wise_divergence, feature_mse, pkd_loss
from .logit import binary_kl_divergence, kd_quality_focal_loss, kl_divergence, ld_loss
from .reduce import reduce_mean

__all__ = [
    'binary_kl_divergence',
    'box_iou',
    'box_kd_loss',
    'channel_wise_divergence',
    'feature_mse',
    'kd_quality_focal_loss',
    'kl_divergence',
    'ld_loss',
    'losses_at_once',
    'pkd_loss',
    'reduce_mean',
]
