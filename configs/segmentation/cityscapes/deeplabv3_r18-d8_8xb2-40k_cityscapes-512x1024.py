"""DeepLabV3-R18 alone, with CIRKD's schedule: 40k iterations of 16 images."""
_base_ = [
    'mmseg::_base_/models/deeplabv3_r50-d8.py',
    'mmseg::_base_/datasets/cityscapes.py',
    'mmseg::_base_/default_runtime.py',
    '../../_base_/schedules/sgd_40k_lr002.py'
]

model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(depth=18),
    decode_head=dict(in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64))
