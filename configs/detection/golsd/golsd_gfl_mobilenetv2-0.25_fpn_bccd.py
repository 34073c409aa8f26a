"""GO-LSD in the manner of D-FINE on GFL: the head's final bins teach those of the exits.

Published: weight 1.5 a layer at tau 5, between the layers of a decoder, beside the labels there.
"""
_base_ = '../bccd/gfl_mobilenetv2-0.25_fpn_bccd.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher='self',
    exits=dict(
        backbone=dict(
            type='DenseExit', tap='backbone', weight=1.0, gt=1.0, kd=1.0,
            kd_losses=dict(
                loss_cls=None,
                loss_bbox=None,
                loss_dfl=dict(type='LocalizationSelfKD', tau=5.0, loss_weight=1.5)))))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
