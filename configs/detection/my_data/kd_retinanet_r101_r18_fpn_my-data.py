"""Your boxes by vanilla logit KD alone, to compare with."""
_base_ = './kd-ds_retinanet_r101_r18_fpn_my-data.py'

model = dict(exits=None)
