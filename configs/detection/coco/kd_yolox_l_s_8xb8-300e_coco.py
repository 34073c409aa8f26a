"""YOLOX-s taught by YOLOX-l: vanilla logit KD, classes and objectness apart.

Published: student 40.5, teacher 49.4 box AP.
"""
_base_ = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::yolox/yolox_l_8xb8-300e_coco.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
