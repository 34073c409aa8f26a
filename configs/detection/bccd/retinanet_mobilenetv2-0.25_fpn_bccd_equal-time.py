"""The control: the student alone for as much wall-clock time as the flagship, 2.1 x the steps."""
_base_ = './retinanet_mobilenetv2-0.25_fpn_bccd.py'

max_iters = 1470
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=False, begin=50, end=max_iters)
]
