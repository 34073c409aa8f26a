"""DIST in the place of pixel-wise KL: correlation across classes and across pixels."""
_base_ = '../digits/kd_fcn_r18-w32_r18-w16_digits.py'

model = dict(terms=dict(kd=dict(loss_seg=dict(type='DISTLoss'))))
