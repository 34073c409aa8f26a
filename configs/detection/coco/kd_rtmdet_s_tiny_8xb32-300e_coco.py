"""RTMDet-tiny taught by RTMDet-s: features, channel by channel, at the neck's outputs.

mmkd does not know this head's predictions, so there is no LogitKD. Published: student 40.9, teacher
44.5 box AP.
"""
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
        checkpoint='published'),
    terms=dict(
        kd=dict(
            type='FeatureKD',
            tap='neck',
            loss=dict(type='ChannelWiseDivergence'),
            # ends with the mosaics, at epoch 280; 459 iterations each on 8 GPUs
            schedule=dict(end=280 * 459))))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
