"""Faster R-CNN-R50 taught by the first stage of a Cascade Mask R-CNN on X101: DIST of the classes.

Published, without taught boxes: student 38.4, teacher 45.6, distilled 40.4 box AP.
"""
_base_ = '../coco/kd_faster-rcnn_r101_r50_fpn_2x_coco.py'

model = dict(
    teacher=dict(config='mmdet::cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_20e_coco.py'),
    terms=dict(
        kd=None,
        dist=dict(
            type='LogitKD',
            loss_cls=dict(type='DISTLoss'),
            loss_bbox=None,
            loss_rpn_cls=None,
            loss_rpn_bbox=None)))
