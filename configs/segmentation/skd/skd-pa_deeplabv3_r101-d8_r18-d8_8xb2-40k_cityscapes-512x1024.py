"""DeepLabV3-R18 taught by R101: SKD beside logit KD, as CIRKD's authors ran it again.

Their figures: student 74.21, teacher 78.07, distilled 75.42 mIoU, with an adversarial loss
that is not here; this teacher of mmseg has 80.20. Their nodes are windows of 2 x 2 of the
64 x 128 cells, here of 2 x 4.
"""
_base_ = '../cityscapes/kd_deeplabv3_r101-d8_r18-d8_8xb2-40k_cityscapes-512x1024.py'

model = dict(
    terms=dict(
        pa=dict(
            type='FeatureKD', tap='decode_head.bottleneck', weight=10.,
            loss=dict(type='PairwiseAffinityLoss', scale=1 / 32))))
