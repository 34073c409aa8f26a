"""DeepLabV3-R18 taught by R101: IFVD beside logit KD, as CIRKD's authors ran it again.

Their figures: student 74.21, teacher 78.07, distilled 75.59 mIoU, with an adversarial loss
that is not here; this teacher of mmseg has 80.20.
"""
_base_ = '../cityscapes/kd_deeplabv3_r101-d8_r18-d8_8xb2-40k_cityscapes-512x1024.py'

model = dict(
    terms=dict(
        ifv=dict(
            type='FeatureKD', tap='decode_head.bottleneck', loss=dict(type='IFVLoss'), weight=20.)))
