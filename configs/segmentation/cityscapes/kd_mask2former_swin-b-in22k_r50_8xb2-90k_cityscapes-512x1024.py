"""Mask2Former-R50 taught by Swin-B: semantic collapse on decoder layers 3, 6 and 9.

Published: student 80.44, teacher 83.52 mIoU. mmseg takes Mask2Former from mmdet.
"""
_base_ = 'mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmseg::mask2former/'
        'mask2former_swin-b-in22k-384x384-pre_8xb2-90k_cityscapes-512x1024.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD', layers=(3, 6, 9))))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
