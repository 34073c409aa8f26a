"""The demo's detector: vanilla logit KD + deep supervision of backbone and neck."""

_base_ = './retinanet_student_digits.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmkd::demo/retinanet_teacher_digits.py',
        checkpoint='work_dirs/demo/teacher_det.pth'),
    terms=dict(kd=dict(type='LogitKD')),
    exits=dict(
        backbone=dict(type='DenseExit', tap='backbone', feat=8.0),
        neck=dict(type='DenseExit', tap='neck', feat=8.0)))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
