"""Vanilla logit KD: class logits and boxes of the MobileNetV2-1.0 teacher."""
_base_ = './retinanet_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmkd::detection/bccd/retinanet_mobilenetv2-1.0_fpn_bccd.py',
        checkpoint='data/weights/bccd_teacher.pth',
        fold_bn=True, channels_last=True, autocast='bfloat16'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
