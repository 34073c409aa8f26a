"""RetinaNet on a ResNet-18 of half the usual width: the demo's teacher for detection."""

_base_ = './retinanet_student_digits.py'

model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[64, 128, 256], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2))
