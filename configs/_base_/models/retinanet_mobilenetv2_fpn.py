"""RetinaNet on MobileNetV2 for small images: three levels, anchors from 12 to 76 pixels."""
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=16),
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=1.0,
        out_indices=(2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=True)),
    neck=dict(
        in_channels=[32, 96, 320],
        out_channels=128,
        norm_cfg=dict(type='BN'),
        start_level=0,
        add_extra_convs=False,
        num_outs=3),
    bbox_head=dict(
        num_classes=3,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        anchor_generator=dict(
            octave_base_scale=1.5, ratios=[0.67, 1.0, 1.5], strides=[8, 16, 32]),
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=2.0),
        reg_decoded_bbox=True))
