"""PKD on the neck's outputs, weight 10 as published for RetinaNet."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(_delete_=True, pkd=dict(type='FeatureKD', tap='neck', weight=10.0)))
