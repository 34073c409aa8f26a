"""DSKD: predictions and features of the teacher at the shallow stages, weighed by their losses.

Three branches share a weight of 1 in proportion to their losses; labels are left to the student.
"""
_base_ = '../ccp8/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py'

model = dict(
    exits=dict(
        backbone=dict(
            type='SegExit', tap='backbone[:3]', weight=1 / 3, gt=0., kd=1., feat=1.0,
            balance='loss')))
