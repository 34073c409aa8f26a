"""The flagship: vanilla logit KD + exits on three stages, taught by the teacher."""
_base_ = './kd_fcn_r18-w32_r18-w16_digits.py'

model = dict(
    exits=dict(
        backbone=dict(
            type='SegExit', tap='backbone[1:]', weight=[0.1, 0.2, 0.4], gt=0., kd=1., feat=15.0)))
