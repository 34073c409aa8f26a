"""RepPoints-R50 taught by X101 with deformable convs: PKD at P3 to P6.

Published: student 38.6, teacher 44.2, distilled 42.3 box AP.
"""
_base_ = 'mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::reppoints/reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco.py',
        checkpoint='published'),
    terms=dict(
        pkd=dict(type='FeatureKD', tap='neck[0:4]', loss=dict(type='PKDLoss'), weight=10.0)))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
