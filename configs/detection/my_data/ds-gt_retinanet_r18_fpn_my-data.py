"""The control: the same exits, taught by your labels alone; no teacher."""
_base_ = './kd-ds_retinanet_r101_r18_fpn_my-data.py'

model = dict(
    teacher=None, terms=None,
    exits=dict(backbone=dict(gt=1., kd=0., feat=0.), neck=dict(gt=1., kd=0., feat=0.)))
