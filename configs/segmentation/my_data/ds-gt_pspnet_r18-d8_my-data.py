"""The control: the same exits, taught by your labels alone; no teacher."""
_base_ = './kd-ds_pspnet_r101-d8_r18-d8_my-data.py'

model = dict(
    teacher=None, terms=None,
    exits=dict(backbone=dict(gt=1., kd=0., feat=0.), auxiliary=None))
