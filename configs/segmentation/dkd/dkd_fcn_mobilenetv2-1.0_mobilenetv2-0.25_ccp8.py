"""DKD in the place of pixel-wise KL: the labelled class and the others with a weight each."""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(terms=dict(kd=dict(loss_seg=dict(type='DKDLoss'))))
