"""The control: the same exits, taught by the labels alone; no teacher."""
_base_ = './kd-ds_fcn_r18-w32_r18-w16_digits.py'

model = dict(teacher=None, terms=None, exits=dict(backbone=dict(gt=1., kd=0., feat=0.)))
