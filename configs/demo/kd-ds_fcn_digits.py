"""The demo's segmentor: vanilla logit KD + deep supervision of three stages."""

_base_ = './fcn_student_digits.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmkd::demo/fcn_teacher_digits.py',
        checkpoint='work_dirs/demo/teacher_seg.pth'),
    terms=dict(kd=dict(type='LogitKD')),
    exits=dict(
        backbone=dict(type='SegExit', tap='backbone[1:]', weight=[0.1, 0.1, 0.2], feat=8.0)))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
