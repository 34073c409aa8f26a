"""Be Your Own Teacher: exits taught by the labels and the student's own final predictions.

Published weights: labels 0.7, predictions 0.3 at tau 3, last stage's feature 0.03 (as a norm over
the batch; here as the mean square).
"""
_base_ = '../ccp8/fcn_mobilenetv2-0.25_ccp8.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher='self',
    terms=dict(
        hint=dict(
            type='FeatureKD',
            tap='backbone[0:3]',
            teacher_tap=['backbone[3]', 'backbone[3]', 'backbone[3]'],
            loss=dict(type='FeatureMSE'),
            weight=0.03)),
    exits=dict(
        backbone=dict(
            type='SegExit', tap='backbone[0:3]', weight=1.0, gt=0.7, kd=0.3,
            kd_losses=dict(loss_seg=dict(type='KLDivergence', tau=3.0)))))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
