"""A GFL student: MobileNetV2-0.25 and half the channels, from scratch."""
_base_ = [
    '../../_base_/models/gfl_mobilenetv2_fpn.py',
    '../../_base_/datasets/bccd_detection.py',
    '../../_base_/schedules/adamw_700i.py',
    '../../_base_/default_runtime_det.py'
]

model = dict(
    backbone=dict(widen_factor=0.25),
    neck=dict(in_channels=[8, 24, 80], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64))
