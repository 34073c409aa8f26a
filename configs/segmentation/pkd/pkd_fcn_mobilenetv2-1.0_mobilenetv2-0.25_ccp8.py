"""PKD on all four stages, weight 6 as published for detectors."""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    terms=dict(_delete_=True, pkd=dict(type='FeatureKD', tap='backbone', weight=6.0)))
