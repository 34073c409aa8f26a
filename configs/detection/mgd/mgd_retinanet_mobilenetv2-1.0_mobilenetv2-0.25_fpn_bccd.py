"""MGD on the neck's outputs: the teacher's maps from the student's, 65 % erased, as published."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    terms=dict(
        _delete_=True,
        mgd=dict(type='FeatureKD', tap='neck', loss=dict(type='MGDLoss'))))
