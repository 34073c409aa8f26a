"""RetinaNet-R50 taught by an FCOS on X101: PKD at P3 to P6.

Published: student 36.5, teacher 42.6, distilled 40.3 box AP.
"""
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco.py',
        checkpoint='published'),
    terms=dict(
        pkd=dict(type='FeatureKD', tap='neck[0:4]', loss=dict(type='PKDLoss'), weight=10.0)))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
