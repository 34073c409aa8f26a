"""IFVD: how the pixels of a class vary around their mean, beside vanilla logit KD.

Weight 20 beside KD of weight 1, as in CIRKD's re-run; the authors have 200 beside 10.
"""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    terms=dict(
        ifv=dict(type='FeatureKD', tap='decode_head.convs', loss=dict(type='IFVLoss'), weight=20.)))
