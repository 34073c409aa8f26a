"""The student: MobileNetV2-0.25 and half the head, from scratch."""
_base_ = [
    '../../_base_/models/fcn_mobilenetv2.py',
    '../../_base_/datasets/ccp8_segmentation.py',
    '../../_base_/schedules/adamw_1000i.py',
    '../../_base_/default_runtime_seg.py'
]

model = dict(
    backbone=dict(widen_factor=0.25),
    decode_head=dict(in_channels=(8, 8, 24, 80), channels=64))
