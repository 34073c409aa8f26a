"""DeepLabV3-MobileNetV2 alone, with CIRKD's schedule: 40k iterations of 16 images.

As there, its head is 128 wide and no auxiliary head helps it.
"""
_base_ = [
    'mmseg::_base_/models/deeplabv3_r50-d8.py',
    'mmseg::_base_/datasets/cityscapes.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/sgd_40k_lr002.py'
]

model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    pretrained='mmcls://mobilenet_v2',
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='SyncBN', requires_grad=True)),
    decode_head=dict(in_channels=320, channels=128),
    auxiliary_head=None)
