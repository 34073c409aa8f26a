"""OFA-KD: exits on all four stages and the final logits, the teacher boosted at the label.

Published: weight 1 each, no labels at the exits, eps 1.5 (ImageNet).
"""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

ofa = dict(type='OFALoss', eps=1.5)
model = dict(
    terms=dict(kd=dict(loss_seg=ofa)),
    exits=dict(
        backbone=dict(
            type='SegExit', tap='backbone', weight=1.0, gt=0., kd=1.,
            kd_losses=dict(loss_seg=ofa))))
