"""The flagship: vanilla logit KD + exits on three stages, taught by labels and teacher."""
_base_ = './kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    exits=dict(
        backbone=dict(type='SegExit', tap='backbone[1:]', weight=[0.1, 0.2, 0.4], feat=8.0)))
