"""DKD in the place of pixel-wise KL: the labelled class and the others with a weight each."""
_base_ = '../digits/kd_fcn_r18-w32_r18-w16_digits.py'

model = dict(terms=dict(kd=dict(loss_seg=dict(type='DKDLoss'))))
