"""GFL-R50 taught by R101, FRS. Published: student 40.2, teacher 44.9, distilled 43.6 box AP."""
_base_ = '../coco/kd_gfl_r101_r50_fpn_1x_coco.py'

schedule = dict(warmup=500)
model = dict(
    terms=dict(
        _delete_=True,
        features=dict(
            type='FeatureKD',
            tap='neck',
            loss=dict(type='FRSLoss'),
            weight=0.1,
            schedule=schedule),
        classes=dict(
            type='LogitKD',
            loss_cls=dict(type='FRSClassLoss'),
            loss_bbox=None,
            loss_dfl=None,
            weight=0.05,
            schedule=schedule)))
