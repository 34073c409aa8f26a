"""DeepLabV3-R18 taught by R101 with CIRKD's schedule: vanilla logit KD, pixel by pixel.

Af-DCD's figures: student 33.91, teacher 42.70, distilled 34.88 mIoU; this teacher of mmseg has
44.08.
"""
_base_ = './deeplabv3_r18-d8_8xb2-40k_ade20k-512x512.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-80k_ade20k-512x512.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
