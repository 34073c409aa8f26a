"""ReviewKD on the neck's outputs: deeper maps help to match shallower ones, as published."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(
        _delete_=True,
        reviewkd=dict(type='FeatureKD', tap='neck', loss=dict(type='ReviewKDLoss', width=128))))
