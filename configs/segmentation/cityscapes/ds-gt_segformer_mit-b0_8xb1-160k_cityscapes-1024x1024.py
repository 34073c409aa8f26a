"""SegFormer-B0, the control: the same exits, taught by the labels alone; no teacher."""
_base_ = './kd-ds_segformer_mit-b4_mit-b0_8xb1-160k_cityscapes-1024x1024.py'

model = dict(teacher=None, terms=None, exits=dict(backbone=dict(gt=1., kd=0., feat=0.)))
