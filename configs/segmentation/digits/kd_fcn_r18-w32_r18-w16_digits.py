"""Vanilla logit KD: pixel-wise KL to the teacher of twice the width."""
_base_ = './fcn_r18-w16_digits.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmkd::segmentation/digits/fcn_r18-w32_digits.py',
        checkpoint='data/weights/digits16k_teacher.pth',
        fold_bn=True, channels_last=True),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
