"""The losses as pure functions of tensors; they know torch and nothing else."""

from .at_once import losses_at_once
from .box import box_iou, box_kd_loss
from .correlation import dist_loss
from .cross_image import cross_image_memory_loss, cross_image_pixel_loss
from .defeat import boxes_by_level, defeat_loss
from .fbkd import fbkd_loss
from .feature import channel_wise_divergence, feature_mse, pkd_loss
from .fgd import fgd_loss, object_weights
from .frs import frs_class_loss, frs_loss
from .intra_class import ifv_loss
from .labelled import dkd_loss, nkd_loss, ofa_loss
from .localization_self_kd import localization_self_kd
from .logit import binary_kl_divergence, kd_quality_focal_loss, kl_divergence, ld_loss
from .mask_query import dice_kd_loss, matching_costs, semantic_logits
from .masked_generation import af_dcd_loss, mgd_loss
from .normalised import at_loss, cosine_feature_loss, pairwise_affinity_loss
from .reduce import gather_rows, reduce_mean
from .review import hierarchical_context_loss

__all__ = [
    'af_dcd_loss',
    'at_loss',
    'binary_kl_divergence',
    'box_iou',
    'box_kd_loss',
    'boxes_by_level',
    'channel_wise_divergence',
    'cosine_feature_loss',
    'cross_image_memory_loss',
    'cross_image_pixel_loss',
    'defeat_loss',
    'dice_kd_loss',
    'dist_loss',
    'dkd_loss',
    'fbkd_loss',
    'feature_mse',
    'fgd_loss',
    'frs_class_loss',
    'frs_loss',
    'gather_rows',
    'hierarchical_context_loss',
    'ifv_loss',
    'kd_quality_focal_loss',
    'kl_divergence',
    'ld_loss',
    'localization_self_kd',
    'losses_at_once',
    'matching_costs',
    'mgd_loss',
    'nkd_loss',
    'object_weights',
    'ofa_loss',
    'pairwise_affinity_loss',
    'pkd_loss',
    'reduce_mean',
    'semantic_logits',
]
