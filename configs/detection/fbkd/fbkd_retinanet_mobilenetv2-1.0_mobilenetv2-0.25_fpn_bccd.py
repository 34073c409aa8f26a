"""FBKD on the neck's outputs: attended features and non-local relations, as for one stage."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(
        _delete_=True,
        fbkd=dict(
            type='FeatureKD',
            tap='neck',
            loss=dict(type='FBKDLoss', tau=0.5, alpha=4e-4, beta=2e-2, gamma=4e-4))))
