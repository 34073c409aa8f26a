"""The teacher: twice the width, four times the student's schedule, on all 16,000 scenes."""
_base_ = './fcn_r18-w16_digits.py'

max_iters = 4000
model = dict(
    backbone=dict(base_channels=32),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=128))

train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=False, begin=50, end=max_iters)
]
