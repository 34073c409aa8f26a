"""PSPNet-R18 taught by R101: IFVD, how the pixels of a class vary around their mean.

The authors' weights, beside vanilla logit KD; without their adversarial loss.
Published: student 74.87, teacher 79.76 mIoU.
"""
_base_ = '../cityscapes/kd_pspnet_r101-d8_r18-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    terms=dict(
        kd=dict(weight=10.),
        ifv=dict(
            type='FeatureKD', tap='decode_head.bottleneck', loss=dict(type='IFVLoss'),
            weight=200.)))
