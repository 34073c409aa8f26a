"""The control: the student alone for as much wall-clock time as the flagship, 1.4 x the steps."""
_base_ = './fcn_mobilenetv2-0.25_ccp8.py'

max_iters = 1400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=False, begin=50, end=max_iters)
]
