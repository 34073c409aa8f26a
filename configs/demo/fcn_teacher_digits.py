"""FCN on all stages of a ResNet-18 of half the usual width: the demo's teacher for segmentation."""

_base_ = './fcn_student_digits.py'

model = dict(
    backbone=dict(base_channels=32),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=128))
