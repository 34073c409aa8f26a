"""Vanilla logit KD: classes, boxes and their bins of the MobileNetV2-1.0 teacher, both GFL."""
_base_ = './gfl_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmkd::detection/bccd/gfl_mobilenetv2-1.0_fpn_bccd.py',
        checkpoint='data/weights/bccd_gfl_teacher.pth',
        fold_bn=True, channels_last=True, autocast='bfloat16'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
