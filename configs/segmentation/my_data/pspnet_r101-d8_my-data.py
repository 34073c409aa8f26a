"""The teacher: the student's data and schedule, with a bigger backbone. Train it first."""
_base_ = './pspnet_r18-d8_my-data.py'

model = dict(
    pretrained='open-mmlab://resnet101_v1c',
    backbone=dict(depth=101),
    decode_head=dict(in_channels=2048, channels=512),
    auxiliary_head=dict(in_channels=1024, channels=256))
