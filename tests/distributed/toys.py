"""Tiny real models and the batches on which two processes are compared with one."""

import torch
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmkd.registry import MODELS

SIDE = 64  # pixels
CLASSES = ('red', 'green', 'blue')
STRIDES = [8, 16, 32]
POINTS = dict(
    type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=STRIDES
)
FOCAL = dict(type='FocalLoss', use_sigmoid=True)
GIOU = dict(type='GIoULoss', loss_weight=2.0)
CENTER = dict(type='CrossEntropyLoss', use_sigmoid=True)
HEADS = dict(
    RetinaNet=dict(
        type='RetinaHead',
        anchor_generator=dict(POINTS, octave_base_scale=3, ratios=[0.5, 1.0]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=FOCAL,
        loss_bbox=GIOU,
        reg_decoded_bbox=True,
    ),
    FCOS=dict(
        type='FCOSHead',
        strides=STRIDES,
        regress_ranges=((-1, 24), (24, 48), (48, 1e8)),
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        loss_cls=FOCAL,
        loss_bbox=GIOU,
        loss_centerness=CENTER,
    ),
    ATSS=dict(
        type='ATSSHead',
        anchor_generator=POINTS,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=FOCAL,
        loss_bbox=GIOU,
        loss_centerness=CENTER,
    ),
    GFL=dict(
        type='GFLHead',
        anchor_generator=POINTS,
        reg_max=8,
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        loss_bbox=GIOU,
    ),
)
RETINA_ASSIGNER = dict(
    type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1
)


def detector(kind: str, width: int = 8) -> dict:
    """A detector of one of mmdet's dense families on a ResNet-18 of base width ``width``."""
    retina = kind == 'RetinaNet'
    assigner = RETINA_ASSIGNER if retina else dict(type='ATSSAssigner', topk=4)
    train_cfg = dict(assigner=assigner, allowed_border=-1, pos_weight=-1, debug=False)
    if retina:
        train_cfg['sampler'] = dict(type='PseudoSampler')
    return dict(
        type=kind,
        _scope_='mmdet',
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(type='ResNet', depth=18, base_channels=width, out_indices=(1, 2, 3)),
        neck=dict(
            type='FPN',
            in_channels=[2 * width, 4 * width, 8 * width],
            out_channels=2 * width,
            num_outs=3,
        ),
        bbox_head=dict(
            HEADS[kind],
            num_classes=len(CLASSES),
            in_channels=2 * width,
            feat_channels=2 * width,
            stacked_convs=1,
        ),
        train_cfg=None if kind == 'FCOS' else train_cfg,
        test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5)),
    )


def segmentor(width: int = 8) -> dict:
    """An FCN on a ResNet-18 of base width ``width``."""
    norm = dict(type='BN')
    return dict(
        type='EncoderDecoder',
        _scope_='mmseg',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(SIDE, SIDE)),
        backbone=dict(
            type='ResNetV1c', depth=18, base_channels=width, stem_channels=width, norm_cfg=norm
        ),
        decode_head=dict(
            type='FCNHead',
            in_channels=8 * width,
            in_index=3,
            channels=2 * width,
            num_convs=1,
            dropout_ratio=0.0,
            num_classes=len(CLASSES),
            norm_cfg=norm,
            loss_decode=dict(type='CrossEntropyLoss'),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def distilled(student: dict, teacher: dict | None, terms: dict, exits: dict, seed: int = 0):
    """A distilled student, started; batch normalisation counts with its running figures."""
    init_default_scope(student['_scope_'])
    torch.manual_seed(seed)
    if teacher is not None:
        teacher = dict(config=teacher, checkpoint=None, classes='same')
    cfg = dict(
        type='mmkd.Distiller', student=student, teacher=teacher, terms=terms, exits=exits
    )
    model = MODELS.build(cfg)
    model.init_weights()
    model.distillation.start(CLASSES)
    return still(model.train())


def still(model):
    """The model with its batch normalisation in eval mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


# Per image: boxes (x1, y1, x2, y2, class), ignored boxes, valid height and width.
EMPTY = dict(boxes=[], ignored=[], shape=(SIDE, SIDE))
BUSY = dict(
    boxes=[(4, 4, 30, 34, 0), (20, 24, 60, 62, 1)], ignored=[(40, 0, 64, 20)], shape=(SIDE, SIDE)
)
PADDED = dict(boxes=[(8, 6, 34, 30, 2)], ignored=[], shape=(48, 40))
DETECTION_BATCHES = dict(
    busy_and_padded=[BUSY, EMPTY, PADDED, PADDED], second_rank_empty=[BUSY, PADDED, EMPTY, EMPTY]
)
# Per image: the share of its rows that is ignored (255).
SEGMENTATION_BATCHES = dict(uneven=[0.0, 0.2, 0.7, 1.0], second_rank_ignored=[0.1, 0.5, 1.0, 1.0])


def detection_batch(images: list[dict]) -> tuple:
    """Images ``[B, 3, SIDE, SIDE]`` and their samples."""
    inputs = torch.randn(len(images), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    samples = []
    for index, image in enumerate(images):
        height, width = image['shape']
        inputs[index, :, height:] = 0
        inputs[index, :, :, width:] = 0
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(height, width),
                ori_shape=(height, width),
                pad_shape=(SIDE, SIDE),
                batch_input_shape=(SIDE, SIDE),
                scale_factor=(1.0, 1.0),
            )
        )
        boxes = torch.tensor(image['boxes'], dtype=torch.float).reshape(-1, 5)
        ignored = torch.tensor(image['ignored'], dtype=torch.float).reshape(-1, 4)
        sample.gt_instances = InstanceData(bboxes=boxes[:, :4], labels=boxes[:, 4].long())
        sample.ignored_instances = InstanceData(
            bboxes=ignored, labels=torch.zeros(len(ignored), dtype=torch.long)
        )
        samples.append(sample)
    return inputs, samples


def segmentation_batch(ignored: list[float]) -> tuple:
    """Images ``[B, 3, SIDE, SIDE]`` and their samples."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(len(ignored), 3, SIDE, SIDE, generator=generator)
    samples = []
    for share in ignored:
        labels = torch.randint(0, len(CLASSES), (1, SIDE, SIDE), generator=generator)
        labels[:, : round(share * SIDE)] = 255
        sample = SegDataSample(metainfo=dict(img_shape=(SIDE, SIDE)))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return inputs, samples
