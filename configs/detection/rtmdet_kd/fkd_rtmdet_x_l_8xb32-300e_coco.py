"""RTMDet-l taught by RTMDet-x as MMYOLO has it: standardised features of the neck, by CWD.

Published there: student 51.4, teacher 52.8, distilled 52.3 box AP.
"""
_base_ = 'mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::rtmdet/rtmdet_x_8xb32-300e_coco.py',
        checkpoint='published'),
    terms=dict(
        neck=dict(
            type='FeatureKD',
            tap=['neck.out_convs.0.conv', 'neck.out_convs.1.conv', 'neck.out_convs.2.conv'],
            loss=dict(type='ChannelWiseDivergence', standardise=True),
            # ends with the mosaics, at epoch 280; 459 iterations each on 8 GPUs
            schedule=dict(end=280 * 459))))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
