"""Mask R-CNN-R50 taught by R101: vanilla KD, masks too. Published: 38.2 and 40.8 box AP."""
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::mask_rcnn/mask-rcnn_r101_fpn_2x_coco.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
