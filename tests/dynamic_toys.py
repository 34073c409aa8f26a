"""Toy detectors whose labels are assigned by their predictions, and those with decoded boxes."""

from toys import BCE, FOCAL, GIOU, GROUP_NORM, STRIDES, _anchors, _deltas, detector

BATCH_NORM = dict(type='BN', requires_grad=True)
KINDS = ('rtmdet', 'yolox', 'tood', 'vfnet', 'paa', 'reppoints')


HEADS = dict(
    rtmdet=dict(
        type='RTMDetSepBNHead', with_objectness=False, share_conv=True, norm_cfg=BATCH_NORM,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=STRIDES),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    yolox=dict(type='YOLOXHead', strides=STRIDES),
    tood=dict(
        type='TOODHead', anchor_type='anchor_free', norm_cfg=GROUP_NORM,
        anchor_generator=_anchors(), bbox_coder=_deltas([0.1, 0.1, 0.2, 0.2]),
        initial_loss_cls=dict(FOCAL, activated=True),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, activated=True, beta=2.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    vfnet=dict(
        type='VFNetHead', strides=STRIDES, norm_cfg=GROUP_NORM,
        regress_ranges=((-1, 64), (64, 128), (128, 1e8)),
        anchor_generator=dict(_anchors(), center_offset=0.0),
    ),
    paa=dict(
        type='PAAHead', norm_cfg=GROUP_NORM, anchor_generator=_anchors(), reg_decoded_bbox=True,
        score_voting=False, bbox_coder=_deltas([0.1, 0.1, 0.2, 0.2]),
        loss_cls=FOCAL, loss_bbox=GIOU, loss_centerness=BCE,
    ),
    reppoints=dict(
        type='RepPointsHead', norm_cfg=GROUP_NORM, point_strides=STRIDES, loss_cls=FOCAL,
        point_feat_channels=16,
    ),
)  # fmt: skip
ASSIGNERS = dict(
    rtmdet=dict(type='DynamicSoftLabelAssigner', topk=13),
    yolox=dict(type='SimOTAAssigner', center_radius=2.5),
    vfnet=dict(type='ATSSAssigner', topk=4),
    paa=dict(
        type='MaxIoUAssigner', pos_iou_thr=0.1, neg_iou_thr=0.1, min_pos_iou=0, ignore_iof_thr=-1
    ),
)  # fmt: skip
TYPES = dict(
    rtmdet='RTMDet', yolox='YOLOX', tood='TOOD', vfnet='VFNet', paa='PAA',
    reppoints='RepPointsDetector',
)  # fmt: skip


def dynamic(kind: str, width: int = 8, classes: int = 3, channels: int = 16, **head) -> dict:
    """Config of one of ``KINDS`` on the backbone and neck of :func:`toys.detector`."""
    cfg = detector(width=width, classes=classes, channels=channels)
    cfg['type'] = TYPES[kind]
    if kind == 'rtmdet':
        cfg['use_syncbn'] = False
    cfg['bbox_head'] = dict(
        HEADS[kind], num_classes=classes, in_channels=channels, feat_channels=channels,
        stacked_convs=1, **head,
    )  # fmt: skip
    train_cfg = dict(allowed_border=-1, pos_weight=-1, debug=False)
    if kind == 'tood':
        train_cfg.update(
            initial_epoch=4, initial_assigner=dict(type='ATSSAssigner', topk=4),
            assigner=dict(type='TaskAlignedAssigner', topk=5), alpha=1, beta=6,
        )  # fmt: skip
    elif kind == 'reppoints':
        stage = dict(allowed_border=-1, pos_weight=-1, debug=False)
        train_cfg = dict(
            init=dict(stage, assigner=dict(type='PointAssigner', scale=4, pos_num=1)),
            refine=dict(stage, assigner=cfg['train_cfg']['assigner']),
        )
    else:
        train_cfg['assigner'] = ASSIGNERS[kind]
    if kind == 'paa':
        cfg['test_cfg']['score_voting'] = False
    return dict(cfg, train_cfg=train_cfg)
