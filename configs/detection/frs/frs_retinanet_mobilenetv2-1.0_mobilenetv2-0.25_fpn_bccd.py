"""FRS: features and classes where the teacher sees something, at RetinaNet's published weights."""
_base_ = '../bccd/kd_retinanet_mobilenetv2-1.0_mobilenetv2-0.25_fpn_bccd.py'

schedule = dict(warmup=50)  # published: 500 of 180,000 iterations
model = dict(
    terms=dict(
        _delete_=True,
        features=dict(
            type='FeatureKD',
            tap='neck',
            loss=dict(type='FRSLoss'),
            weight=0.005,
            schedule=schedule),
        classes=dict(
            type='LogitKD',
            loss_cls=dict(type='FRSClassLoss'),
            loss_bbox=None,
            weight=0.02,
            schedule=schedule)))
