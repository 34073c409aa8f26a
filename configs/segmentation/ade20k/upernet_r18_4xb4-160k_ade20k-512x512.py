"""UPerNet-R18 alone; mmseg's own file leaves out to which size a batch is padded."""
_base_ = 'mmseg::upernet/upernet_r18_4xb4-160k_ade20k-512x512.py'

model = dict(data_preprocessor=dict(size=(512, 512)))
