"""UPerNet-R18 taught by R101: vanilla logit KD, pixel by pixel. Published: teacher 43.82 mIoU."""
_base_ = './upernet_r18_4xb4-160k_ade20k-512x512.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmseg::upernet/upernet_r101_4xb4-160k_ade20k-512x512.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
