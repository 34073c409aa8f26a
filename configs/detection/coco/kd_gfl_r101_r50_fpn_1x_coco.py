"""GFL-R50 taught by R101: vanilla logit KD. Published: student 40.2, teacher 44.7 box AP."""
_base_ = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
