"""Faster R-CNN-R50 taught by R101: PKD at P2 to P5. Published: 38.4, distilled 40.3 box AP."""
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        checkpoint='published'),
    terms=dict(pkd=dict(type='FeatureKD', tap='neck[0:4]', loss=dict(type='PKDLoss'), weight=6.0)))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
