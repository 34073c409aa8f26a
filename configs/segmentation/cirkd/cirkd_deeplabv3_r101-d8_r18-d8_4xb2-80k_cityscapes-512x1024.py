"""DeepLabV3-R18 taught by R101: CIRKD, likeness to other images and to remembered pixels.

Published terms and weights, beside vanilla logit KD. The queues take 0.9 GB of the device and of
each checkpoint. Published: student 76.70, teacher 80.20 mIoU.
"""
_base_ = '../cityscapes/kd_deeplabv3_r101-d8_r18-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    terms=dict(
        batch=dict(
            type='FeatureKD', tap='decode_head.bottleneck', loss=dict(type='CrossImagePixelLoss')),
        memory=dict(
            type='FeatureKD', tap='decode_head.bottleneck', weight=0.1,
            loss=dict(type='CrossImageMemoryLoss'))))
