"""GFL-R18 taught by R101: localisation distillation. Published: 35.8, distilled 36.5 box AP."""
_base_ = './ld_gfl_r101_r50_fpn_1x_coco.py'

model = dict(
    student=dict(
        backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
        neck=dict(in_channels=[64, 128, 256, 512])))
