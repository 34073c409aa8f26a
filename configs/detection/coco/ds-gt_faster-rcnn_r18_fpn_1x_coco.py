"""Faster R-CNN-R18, the control: the same exits, taught by the labels alone; no teacher."""
_base_ = './kd-ds_faster-rcnn_r101_r18_fpn_1x_coco.py'

model = dict(
    teacher=None,
    terms=None,
    exits=dict(backbone=dict(gt=1., kd=0., feat=0.), neck=dict(gt=1., kd=0., feat=0.)))
