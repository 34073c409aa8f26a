"""The flagship: vanilla logit KD + exits on backbone and neck, taught by labels and teacher."""
_base_ = './kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    exits=dict(
        backbone=dict(type='DenseExit', tap='backbone', channels=32, feat=30.0),
        neck=dict(
            type='DenseExit',
            tap=['neck.fpn_convs.0:in', 'neck.fpn_convs.1:in', 'neck.fpn_convs.2:in'],
            channels=32, feat=30.0)))
