"""DeepLabV3-R18 taught by R101: Af-DCD, masked generation with a dense contrast on stage 4.

Published weights, beside vanilla logit KD. Published: student 76.70, teacher 80.20 mIoU.
"""
_base_ = '../cityscapes/kd_deeplabv3_r101-d8_r18-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    terms=dict(dcd=dict(type='FeatureKD', tap='backbone[3]', loss=dict(type='AfDCDLoss'))))
