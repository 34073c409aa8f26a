"""The flagship with PKD on the first stage too, where it has no exit."""
_base_ = './kd-ds_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    terms=dict(
        pkd=dict(type='FeatureKD', tap='backbone[0]', loss=dict(type='PKDLoss'), weight=2.0)))
