"""UPerNet-R18 taught by R101, the flagship: logit KD + exits on stages 2 to 4.

On stage 3 the baseline has a head with labels of its own; the teacher is added to that one.
"""
_base_ = './kd_upernet_r101_r18_4xb4-160k_ade20k-512x512.py'

model = dict(
    exits=dict(
        backbone=dict(
            type='SegExit', tap=['backbone[1]', 'backbone[3]'], weight=[0.1, 0.4], feat=8.0),
        auxiliary=dict(type='SegExit', tap='auxiliary_head', weight=0.4, gt=0., kd=1.)))
