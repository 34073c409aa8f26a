"""AT alone: the attention maps of the last three stages.

As published for maps of 8 x 8 to 32 x 32 cells; here they have 10 x 7 to 20 x 13.
"""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    terms=dict(
        kd=None,
        at=dict(type='FeatureKD', tap='backbone[1:]', loss=dict(type='ATLoss'), weight=1000.0)))
