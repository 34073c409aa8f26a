"""CenterNet-R18 taught by one with deformable convolutions, through a package outside mmkd."""

_base_ = 'mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py'

custom_imports = dict(imports=['mmkd_example'])

model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=_base_.model,
    teacher=dict(
        config='mmdet::centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py',
        checkpoint='published',
    ),
    terms=dict(
        kd=dict(type='LogitKD'),
        huber=dict(
            type='FeatureKD',
            tap='neck',
            loss=dict(type='HuberFeatureLoss', delta=0.5),
            region=dict(type='mmkd_example.CentreRegion'),
        ),
    ),  # with or without the package's name
    exits=dict(backbone=dict(type='HeatmapExit', tap='backbone[1:3]')),
)

default_hooks = dict(distill=dict(type='mmkd.DistillHook'))
