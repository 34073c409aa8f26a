"""A GFL teacher: MobileNetV2-1.0 with ImageNet weights."""
_base_ = [
    '../../_base_/models/gfl_mobilenetv2_fpn.py',
    '../../_base_/datasets/bccd_detection.py',
    '../../_base_/schedules/adamw_700i.py',
    '../../_base_/default_runtime_det.py'
]

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='data/weights/mobilenet_v2_1.0_imagenet_mmdet.pth')))

max_iters = 1000
train_cfg = dict(max_iters=max_iters, val_interval=250)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=False, begin=50, end=max_iters)
]
optim_wrapper = dict(
    optimizer=dict(lr=4e-3),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.25))))
