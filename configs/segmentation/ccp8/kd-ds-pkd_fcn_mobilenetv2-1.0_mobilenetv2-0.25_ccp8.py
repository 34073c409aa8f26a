"""The flagship with PKD on the last stage."""
_base_ = './kd-ds_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(terms=dict(pkd=dict(type='FeatureKD', tap='backbone[3]', loss=dict(type='PKDLoss'))))
