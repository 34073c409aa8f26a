"""DeepLabV3-R18 taught by R101: FitNets beside logit KD, as CIRKD's authors have it.

They give no figure for it. Student 74.21, teacher 78.07 mIoU in their table; this teacher of
mmseg has 80.20.
"""
_base_ = '../cityscapes/kd_deeplabv3_r101-d8_r18-d8_8xb2-40k_cityscapes-512x1024.py'

model = dict(
    terms=dict(
        fitnet=dict(
            type='FeatureKD', tap='decode_head.bottleneck', weight=10.,
            loss=dict(type='FeatureMSE'))))
