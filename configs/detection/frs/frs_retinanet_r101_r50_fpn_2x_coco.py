"""RetinaNet-R50 taught by R101, FRS. Published: student 37.4, teacher 38.9, distilled 39.7 AP."""
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'

schedule = dict(warmup=500)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='published'),
    terms=dict(
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

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
