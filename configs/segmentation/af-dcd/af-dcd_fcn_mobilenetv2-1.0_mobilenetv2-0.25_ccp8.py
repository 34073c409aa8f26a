"""Af-DCD: masked generation with a dense contrast on the last stage, beside vanilla logit KD.

Squares are summed, so Cityscapes' 2e-6 is 1.5e-3 for a map of 320 x 10 x 7 instead of
2048 x 64 x 128. As the authors do on CamVid, the small map is not pooled before the contrast.
"""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    terms=dict(
        dcd=dict(
            type='FeatureKD', tap='backbone[3]',
            loss=dict(type='AfDCDLoss', feature_weight=1.5e-3, contrast_weight=5e-3, pool=1))))
