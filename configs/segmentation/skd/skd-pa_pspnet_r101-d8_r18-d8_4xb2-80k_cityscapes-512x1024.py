"""PSPNet-R18 taught by R101: SKD without its discriminator, pixels and pair-wise affinities.

SKD's own figures: student 69.10, pixels 70.51, with affinities 71.78 mIoU. Its weight of 10 for
pixels counts each image of a GPU, of which there are 2 here.
"""
_base_ = '../cityscapes/kd_pspnet_r101-d8_r18-d8_4xb2-80k_cityscapes-512x1024.py'

model = dict(
    terms=dict(
        kd=dict(weight=20.0),
        pa=dict(
            type='FeatureKD',
            tap='decode_head.bottleneck',
            loss=dict(type='PairwiseAffinityLoss'),
            weight=0.5)))
