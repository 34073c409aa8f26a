"""The control: the same exits, taught by the labels alone; no teacher."""
_base_ = './kd-ds_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    teacher=None,
    terms=None,
    exits=dict(backbone=dict(gt=1., kd=0., feat=0.), neck=dict(gt=1., kd=0., feat=0.)))
