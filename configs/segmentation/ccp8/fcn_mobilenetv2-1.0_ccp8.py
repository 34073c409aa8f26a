"""The teacher: MobileNetV2-1.0 with ImageNet weights."""
_base_ = [
    '../../_base_/models/fcn_mobilenetv2.py',
    '../../_base_/datasets/ccp8_segmentation.py',
    '../../_base_/schedules/adamw_1000i.py',
    '../../_base_/default_runtime_seg.py'
]

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='data/weights/mobilenet_v2_1.0_imagenet_mmseg.pth')))

max_iters = 1600
train_cfg = dict(max_iters=max_iters, val_interval=400)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=False, begin=50, end=max_iters)
]
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.3))))
