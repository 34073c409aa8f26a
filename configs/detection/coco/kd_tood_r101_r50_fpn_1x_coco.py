"""TOOD-R50 taught by R101: vanilla logit KD. Published: student 42.4, teacher 46.1 box AP."""
_base_ = 'mmdet::tood/tood_r50_fpn_1x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::tood/tood_r101_fpn_ms-2x_coco.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
