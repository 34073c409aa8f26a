"""DeepLabV3-R18, the control: the same exits, taught by the labels alone; no teacher."""
_base_ = './kd-ds_deeplabv3_r101-d8_r18-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    teacher=None, terms=None, exits=dict(backbone=dict(gt=1., kd=0., feat=0.), auxiliary=None))
