"""DeepLabV3-MobileNetV2 taught by R101: Af-DCD with its schedule and weights, beside logit KD.

Af-DCD's figures: student 73.12, teacher 78.07, distilled 76.43 mIoU; this teacher of mmseg has
80.20.
"""
_base_ = '../cityscapes/kd_deeplabv3_r101-d8_mobilenet-v2-d8_8xb2-40k_cityscapes-512x1024.py'

model = dict(
    terms=dict(
        dcd=dict(
            type='FeatureKD', tap='backbone[3]',
            loss=dict(type='AfDCDLoss'))))
