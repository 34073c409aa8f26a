"""Your three classes taught by the published teacher of COCO's 80, matched by name."""
_base_ = './retinanet_r18_fpn_my-data.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    # Edit where the teacher does not know your classes: the config and the checkpoint of your own
    # (docs/own_data.md). A class that it lacks is learnt from the labels alone.
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='published'),
    terms=dict(kd=dict(type='LogitKD')),
    exits=dict(
        backbone=dict(type='DenseExit', tap='backbone[1:]', feat=8.0),
        neck=dict(
            type='DenseExit',
            tap=['neck.fpn_convs.0:in', 'neck.fpn_convs.1:in', 'neck.fpn_convs.2:in'],
            feat=8.0)))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
