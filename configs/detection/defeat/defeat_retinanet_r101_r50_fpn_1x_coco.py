"""RetinaNet-R50 taught by R101, DeFeat's terms of the neck at the weights released for VOC.

Published: student 36.5, distilled 39.7 AP by a teacher on R152, which mmdet does not have; R101
reaches 38.9.
"""
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='published'),
    terms=dict(
        defeat=dict(type='FeatureKD', tap='neck', loss=dict(type='DeFeatLoss'))))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
