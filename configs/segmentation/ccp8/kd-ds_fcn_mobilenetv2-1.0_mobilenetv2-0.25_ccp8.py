"""The flagship: vanilla logit KD + exits on three stages, taught by the teacher.

Labels at the exits would cost more than the teacher does: each loss is taken at full image size.
"""
_base_ = './kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    exits=dict(
        backbone=dict(
            type='SegExit', tap='backbone[1:]', weight=[0.1, 0.2, 0.4], gt=0., kd=1., feat=15.0)))
