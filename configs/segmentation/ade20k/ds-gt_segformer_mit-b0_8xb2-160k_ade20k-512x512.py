"""SegFormer-B0, the control: the same exits, taught by the labels alone; no teacher."""
_base_ = './kd-ds_segformer_mit-b4_mit-b0_8xb2-160k_ade20k-512x512.py'

model = dict(teacher=None, terms=None, exits=dict(backbone=dict(gt=1., kd=0., feat=0.)))
