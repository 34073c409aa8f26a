"""FitNets: the neck's outputs by their squared difference, weight 1 each."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(
        _delete_=True,
        fitnet=dict(type='FeatureKD', tap='neck', loss=dict(type='FeatureMSE'))))
