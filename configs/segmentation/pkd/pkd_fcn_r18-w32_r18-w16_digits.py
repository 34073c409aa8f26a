"""PKD on all four stages, weight 6 as published for detectors."""
_base_ = '../digits/kd_fcn_r18-w32_r18-w16_digits.py'

model = dict(
    terms=dict(_delete_=True, pkd=dict(type='FeatureKD', tap='backbone', weight=6.0)))
