"""GFL-R101 taught by R101 with deformable convs: localisation distillation.

Published: student 44.6, distilled 45.4 box AP; mmdet lists 47.1 for the teacher.
"""
_base_ = 'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::gfl/gfl_r101-dconv-c3-c5_fpn_ms-2x_coco.py',
        checkpoint='published'),
    terms=dict(
        kd=dict(
            type='LogitKD',
            loss_cls=None,
            loss_bbox=None,
            loss_dfl=dict(type='LDLoss', tau=10.0, loss_weight=1.0))))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
