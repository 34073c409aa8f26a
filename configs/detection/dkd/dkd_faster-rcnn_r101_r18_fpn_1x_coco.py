"""Faster R-CNN-R18 taught by R101: DKD of the RoIs' classes (CVPR 2022).

Published with detectron2's models: student 33.3, distilled 35.1 box AP.
"""
_base_ = '../coco/kd_faster-rcnn_r101_r18_fpn_1x_coco.py'

model = dict(
    terms=dict(
        kd=dict(
            loss_cls=dict(type='DKDLoss', alpha=1.0, beta=0.25, tau=1.0),
            loss_bbox=None,
            loss_rpn_cls=None,
            loss_rpn_bbox=None)))
