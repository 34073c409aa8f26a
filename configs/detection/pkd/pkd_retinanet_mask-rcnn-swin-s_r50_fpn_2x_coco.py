"""RetinaNet-R50 taught by a Mask R-CNN on Swin-S: PKD of the four finest levels.

Published: student 37.4, teacher 48.2, distilled 41.5 box AP. The teacher's levels are twice as
fine (strides 4 to 32, the student's 8 to 64); as published, the student's are enlarged.
"""
_base_ = './pkd_retinanet_x101-64x4d_r50_fpn_2x_coco.py'

model = dict(
    teacher=dict(config='mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py'),
    terms=dict(pkd=dict(weight=6.0)))
