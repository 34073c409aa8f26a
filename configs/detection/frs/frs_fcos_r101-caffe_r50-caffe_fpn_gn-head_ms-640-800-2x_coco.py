"""FCOS-R50 taught by R101, FRS. Published: student 38.5, teacher 40.8, distilled 40.9 box AP."""
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py'

schedule = dict(warmup=500)
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
        checkpoint='published'),
    terms=dict(
        features=dict(
            type='FeatureKD',
            tap='neck',
            loss=dict(type='FRSLoss'),
            weight=0.01,
            schedule=schedule),
        classes=dict(
            type='LogitKD',
            loss_cls=dict(type='FRSClassLoss'),
            loss_bbox=None,
            loss_centerness=None,
            weight=0.05,
            schedule=schedule)))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
