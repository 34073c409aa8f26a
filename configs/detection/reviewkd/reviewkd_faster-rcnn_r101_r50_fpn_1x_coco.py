"""Faster R-CNN-R50 taught by R101, ReviewKD. Published (detectron2): 37.9, distilled 40.4 AP."""
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_ms-3x_coco.py',
        checkpoint='published'),
    terms=dict(
        reviewkd=dict(type='FeatureKD', tap='neck', loss=dict(type='ReviewKDLoss'))))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
