"""GFL-R34 taught by R101: localisation distillation. Published: 38.9, distilled 39.8 box AP."""
_base_ = './ld_gfl_r101_r18_fpn_1x_coco.py'

model = dict(
    student=dict(backbone=dict(depth=34, init_cfg=dict(checkpoint='torchvision://resnet34'))))
