"""Faster R-CNN-R18 taught by R101, the flagship: KD of both stages + exits on backbone and neck."""
_base_ = './kd_faster-rcnn_r101_r18_fpn_1x_coco.py'

model = dict(
    exits=dict(
        backbone=dict(type='RoIExit', tap='backbone[1:]', feat=8.0),
        neck=dict(
            type='RoIExit',
            tap=['neck.fpn_convs.1:in', 'neck.fpn_convs.2:in', 'neck.fpn_convs.3:in'],
            feat=8.0)))
