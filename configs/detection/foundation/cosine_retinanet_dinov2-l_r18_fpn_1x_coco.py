"""RetinaNet-R18 whose last stage is taught the last stage of DINOv2-L, by their cosine.

The teacher comes from the hub, or from a folder: model.teacher.config.name_or_path=FOLDER.
"""
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config=dict(type='mmkd.FoundationBackbone', name_or_path='facebook/dinov2-large')),
    terms=dict(
        dino=dict(
            type='FeatureKD',
            tap='backbone[3]',
            teacher_tap='backbone[0]',
            loss=dict(type='CosineFeatureLoss'))))

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
