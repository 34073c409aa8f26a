"""FCOS-R50 taught by R101: CrossKD. Published: student 38.5, teacher 40.8, distilled 41.1 AP."""
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
        checkpoint='published'),
    terms=dict(cross=dict(type='CrossKD', start=2)))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
