"""Faster R-CNN-R18 taught by R101: vanilla KD of both stages. Published: teacher 39.8 box AP."""
_base_ = './faster-rcnn_r18_fpn_1x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
