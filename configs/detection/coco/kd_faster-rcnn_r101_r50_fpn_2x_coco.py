"""Faster R-CNN-R50 taught by R101: vanilla KD of both stages. Published: 38.4 and 39.8 box AP."""
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
