"""CIRKD: likeness to the batch's other images and to remembered pixels and regions.

Published weights, beside vanilla logit KD. Pooled, and with an eighth of the keys: a step takes
every pair of pixels, here on a CPU.
"""
_base_ = '../digits/kd_fcn_r18-w32_r18-w16_digits.py'

model = dict(
    terms=dict(
        batch=dict(
            type='FeatureKD', tap='decode_head.convs',
            loss=dict(type='CrossImagePixelLoss', pool=4)),
        memory=dict(
            type='FeatureKD', tap='decode_head.convs', weight=0.1,
            loss=dict(
                type='CrossImageMemoryLoss', pixel_queue=2000, region_queue=2000,
                pixel_keys=512, region_keys=128))))
