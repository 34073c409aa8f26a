"""DeepLabV3-R18 taught by R101 with CIRKD's schedule: vanilla logit KD, pixel by pixel.

CIRKD's figures: student 73.21, teacher 77.67 mIoU; this teacher of mmseg has 77.92.
"""
_base_ = './deeplabv3_r18-d8_8xb2-40k_voc12aug-512x512.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmseg::deeplabv3/deeplabv3_r101-d8_4xb4-40k_voc12aug-512x512.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
