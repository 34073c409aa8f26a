"""The flagship with PKD on the neck's outputs."""
_base_ = './kd-ds_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(terms=dict(pkd=dict(type='FeatureKD', tap='neck', loss=dict(type='PKDLoss'))))
