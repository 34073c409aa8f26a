"""FGD on the neck's outputs: objects, background, attention and relation, as published."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(
        _delete_=True,
        fgd=dict(type='FeatureKD', tap='neck', loss=dict(type='FGDLoss'))))
