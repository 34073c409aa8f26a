"""RetinaNet-R18 taught by R101, the flagship: logit KD + exits on backbone and neck, C3 to C5."""
_base_ = './kd_retinanet_r101_r18_fpn_1x_coco.py'

model = dict(
    exits=dict(
        backbone=dict(type='DenseExit', tap='backbone[1:]', feat=8.0),
        neck=dict(
            type='DenseExit',
            tap=['neck.fpn_convs.0:in', 'neck.fpn_convs.1:in', 'neck.fpn_convs.2:in'],
            feat=8.0)))
