"""The student: FCN on a ResNet-18 of a quarter of the usual width, from scratch."""
_base_ = [
    '../../_base_/models/fcn_r18-w16.py',
    '../../_base_/datasets/digits16k_segmentation.py',
    '../../_base_/schedules/adamw_1000i.py',
    '../../_base_/default_runtime_seg.py'
]
