"""FitNets: the head's features by their squared difference, weight 10, beside pixel-wise KL."""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    terms=dict(
        fitnet=dict(
            type='FeatureKD', tap='decode_head.convs', loss=dict(type='FeatureMSE'), weight=10.0)))
