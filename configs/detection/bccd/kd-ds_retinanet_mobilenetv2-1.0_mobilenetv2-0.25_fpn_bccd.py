"""The flagship: vanilla logit KD + exits on backbone and neck, taught by labels and teacher."""
_base_ = './kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    exits=dict(
        backbone=dict(type='DenseExit', tap='backbone', feat=8.0),
        neck=dict(
            type='DenseExit',
            tap=['neck.fpn_convs.0:in', 'neck.fpn_convs.1:in', 'neck.fpn_convs.2:in'],
            feat=8.0)))
