"""Your masks by vanilla logit KD alone, to compare with."""
_base_ = './kd-ds_pspnet_r101-d8_r18-d8_my-data.py'

model = dict(exits=None)
