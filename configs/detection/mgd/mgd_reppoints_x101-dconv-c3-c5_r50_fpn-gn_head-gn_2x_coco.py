"""RepPoints-R50 taught by X101 with deformable convs, MGD.

Published: student 38.6, distilled 42.3 box AP; mmdet lists 44.2 for the teacher.
"""
_base_ = 'mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::reppoints/reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco.py',
        checkpoint='published'),
    inherit=['neck', 'bbox_head'],
    terms=dict(mgd=dict(type='FeatureKD', tap='neck', loss=dict(type='MGDLoss'))))

optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
