"""Your masks taught by a teacher of your own, trained on them before."""
_base_ = './pspnet_r18-d8_my-data.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    # Edit: the teacher's config, and the file that training it has written.
    teacher=dict(
        config='configs/segmentation/my_data/pspnet_r101-d8_my-data.py',
        checkpoint='work_dirs/pspnet_r101-d8_my-data/iter_20000.pth'),
    terms=dict(kd=dict(type='LogitKD')),
    exits=dict(
        backbone=dict(
            type='SegExit', tap=['backbone[1]', 'backbone[3]'], weight=[0.1, 0.4], feat=8.0),
        auxiliary=dict(type='SegExit', tap='auxiliary_head', weight=0.4, gt=0., kd=1.)))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
