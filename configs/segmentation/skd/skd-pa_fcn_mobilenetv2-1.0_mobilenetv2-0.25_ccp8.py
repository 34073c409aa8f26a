"""SKD without its discriminator: pixel-wise KL + the affinities of the head's pooled features."""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    terms=dict(
        pa=dict(
            type='FeatureKD',
            tap='decode_head.convs',
            loss=dict(type='PairwiseAffinityLoss'),
            weight=0.5)))
