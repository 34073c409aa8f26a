"""Vanilla logit KD: pixel-wise KL to the MobileNetV2-1.0 teacher."""
_base_ = './fcn_mobilenetv2-0.25_ccp8.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmkd::segmentation/ccp8/fcn_mobilenetv2-1.0_ccp8.py',
        checkpoint='data/weights/ccp8_teacher.pth',
        fold_bn=True, channels_last=True, autocast='bfloat16'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
