"""DETR-R18 taught by R50 of 150 epochs: logit KD, matched. Published: teacher 39.9 box AP."""
_base_ = 'mmdet::detr/detr_r18_8xb2-500e_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(config='mmdet::detr/detr_r50_8xb2-150e_coco.py', checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
