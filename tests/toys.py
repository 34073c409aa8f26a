"""Real mmdet and mmseg models and batches at toy size."""

import copy
from unittest import mock

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmkd.families.family import Family
from mmkd.registry import MODELS

torch.set_num_threads(1)
MMLogger.get_instance('toys', log_level='ERROR')  # initialisation logs a line per parameter

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
ANIMALS = ('cat', 'dog', 'bird', 'cow', 'fox')
GROUP_NORM = dict(type='GN', num_groups=4, requires_grad=True)
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
GIOU = dict(type='GIoULoss', loss_weight=1.0)
BCE = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
STRIDES = [8, 16, 32]


def _anchors():
    return dict(
        type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1,
        strides=STRIDES,
    )  # fmt: skip


def _deltas(stds):
    return dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=stds)


def _detection_head(kind: str) -> dict:
    if kind == 'retina':
        anchors = dict(_anchors(), octave_base_scale=4, scales_per_octave=2, ratios=[0.5, 1.0])
        return dict(
            type='RetinaHead', anchor_generator=anchors, bbox_coder=_deltas([1.0] * 4),
            loss_cls=FOCAL, loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        )  # fmt: skip
    if kind == 'fcos':
        ranges = ((-1, 64), (64, 128), (128, 1e8))
        return dict(
            type='FCOSHead', strides=STRIDES, regress_ranges=ranges, norm_cfg=GROUP_NORM,
            norm_on_bbox=True, centerness_on_reg=True, dcn_on_last_conv=False,
            loss_cls=FOCAL, loss_bbox=GIOU, loss_centerness=BCE,
        )  # fmt: skip
    if kind == 'atss':
        return dict(
            type='ATSSHead', anchor_generator=_anchors(), bbox_coder=_deltas([0.1, 0.1, 0.2, 0.2]),
            norm_cfg=GROUP_NORM, loss_cls=FOCAL, loss_bbox=GIOU, loss_centerness=BCE,
        )  # fmt: skip
    return dict(
        type='GFLHead', anchor_generator=_anchors(), norm_cfg=GROUP_NORM, reg_max=8,
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25), loss_bbox=GIOU,
    )  # fmt: skip


def detector(
    kind: str = 'retina', width: int = 8, classes: int = 3, channels: int = 16,
    pixels: dict = IMAGENET, backbone: dict | None = None, **head,
) -> dict:  # fmt: skip
    """Config of a RetinaNet, FCOS, ATSS or GFL on ResNet-18 of 8 to 64 channels, 3 levels."""
    types = dict(retina='RetinaNet', fcos='FCOS', atss='ATSS', gfl='GFL')
    dense = kind in ('atss', 'gfl')
    assigner = dict(type='ATSSAssigner', topk=4) if dense else dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1
    )  # fmt: skip
    return dict(
        type=types[kind],
        _scope_='mmdet',
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32, **pixels),
        backbone=dict(
            dict(type='ResNet', depth=18, base_channels=width, frozen_stages=-1, norm_eval=True),
            **(backbone or {}),
        ),
        neck=dict(
            type='FPN', in_channels=[width, width * 2, width * 4, width * 8], start_level=1,
            out_channels=channels, num_outs=3,
        ),
        bbox_head=dict(
            _detection_head(kind), num_classes=classes, in_channels=channels,
            feat_channels=channels, stacked_convs=1, **head,
        ),
        train_cfg=dict(
            assigner=assigner, sampler=dict(type='PseudoSampler'),
            allowed_border=-1, pos_weight=-1, debug=False,
        ),
        test_cfg=dict(
            nms_pre=-1, min_bbox_size=-1, score_thr=-1.0, nms=dict(type='nms', iou_threshold=0.6),
            max_per_img=20,
        ),
    )  # fmt: skip


def query_detector(
    kind: str = 'dino', width: int = 8, classes: int = 3, embed: int = 32, queries: int = 6,
    layers: int = 2, pixels: dict = IMAGENET, **changes,
) -> dict:  # fmt: skip
    """Config of a query-based detector on ResNet-18: ``detr``, ``conditional``, ``dab``,
    ``deformable``, ``twostage`` (Deformable) or ``dino``.
    """
    names = dict(detr='DETR', conditional='ConditionalDETR', dab='DABDETR', dino='DINO')
    name = names.get(kind, 'DeformableDETR')
    scales = 3 if name in ('DINO', 'DeformableDETR') else 1
    embed = 256 if kind in ('conditional', 'twostage') else embed  # mmdet's has this width only
    plain_attention = dict(embed_dims=embed, num_heads=4)
    ours, cross = plain_attention, plain_attention
    if kind in ('conditional', 'dab'):
        ours, cross = (dict(plain_attention, cross_attn=x) for x in (False, True))
    if scales > 1:
        cross = dict(embed_dims=embed, num_heads=4, num_levels=scales, dropout=0.0)
    ffn = dict(embed_dims=embed, feedforward_channels=embed)
    if kind == 'dab':
        ffn['act_cfg'] = dict(type='PReLU')
    encoder = cross if scales > 1 else plain_attention
    softmax = dict(
        type='CrossEntropyLoss', use_sigmoid=False, bg_cls_weight=0.1, class_weight=1.0,
        loss_weight=1.0,
    )  # fmt: skip
    cost = dict(type='ClassificationCost' if kind == 'detr' else 'FocalLossCost', weight=1.0)
    costs = [cost, dict(type='BBoxL1Cost', weight=5.0), dict(type='IoUCost', weight=2.0)]
    cfg = dict(
        type=name,
        _scope_='mmdet',
        num_queries=queries,
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=1, **pixels),
        backbone=dict(
            type='ResNet', depth=18, base_channels=width, norm_eval=True, frozen_stages=-1,
            out_indices=(1, 2, 3) if scales > 1 else (3,),
        ),
        neck=dict(
            type='ChannelMapper', kernel_size=1, out_channels=embed, num_outs=scales,
            in_channels=[width * n for n in (2, 4, 8)][-scales:], act_cfg=None,
            norm_cfg=GROUP_NORM,
        ),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=encoder, ffn_cfg=ffn)),
        decoder=dict(
            num_layers=layers, return_intermediate=True,
            layer_cfg=dict(self_attn_cfg=ours, cross_attn_cfg=cross, ffn_cfg=ffn),
        ),
        positional_encoding=dict(num_feats=embed // 2, normalize=True),
        bbox_head=dict(
            type=f'{name}Head', num_classes=classes, embed_dims=embed,
            loss_cls=softmax if kind == 'detr' else FOCAL, loss_bbox=dict(type='L1Loss'),
            loss_iou=GIOU,
        ),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=costs)),
        test_cfg=dict(max_per_img=queries),
    )  # fmt: skip
    if scales > 1:
        two = kind != 'deformable'
        cfg.update(num_feature_levels=scales, with_box_refine=two, as_two_stage=two)
        cfg['decoder']['post_norm_cfg'] = None
    if kind == 'dino':
        groups = dict(dynamic=True, num_groups=None, num_dn_queries=4)
        cfg['dn_cfg'] = dict(label_noise_scale=0.5, box_noise_scale=1.0, group_cfg=groups)
    return copy.deepcopy(dict(cfg, **changes))


def two_stage(
    width: int = 8, classes: int = 3, channels: int = 16, masks: bool = False, stages: int = 1,
    **box_head,
) -> ConfigDict:  # fmt: skip
    """Config of a Faster, Mask or Cascade R-CNN on the backbone and neck of :func:`detector`."""
    base = detector(width=width, channels=channels)
    assigner = base['train_cfg']['assigner']
    sampler = dict(type='RandomSampler', num=8, pos_fraction=0.5, neg_pos_ub=-1)
    nms = dict(type='nms', iou_threshold=0.7)
    proposals = dict(nms_pre=20, max_per_img=8, nms=nms, min_bbox_size=0)
    rcnn = dict(assigner=assigner, sampler=sampler, pos_weight=-1, mask_size=8)
    head = dict(
        type='Shared2FCBBoxHead', in_channels=channels, fc_out_channels=channels,
        roi_feat_size=3, num_classes=classes, bbox_coder=_deltas([0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type='CrossEntropyLoss', loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0), reg_class_agnostic=stages > 1, **box_head,
    )  # fmt: skip

    def extractor(size):
        align = dict(type='RoIAlign', output_size=size, sampling_ratio=0)
        return dict(
            type='SingleRoIExtractor', out_channels=channels, featmap_strides=STRIDES,
            roi_layer=align,
        )  # fmt: skip

    roi_head = dict(type='StandardRoIHead', bbox_roi_extractor=extractor(3), bbox_head=head)
    if stages > 1:
        roi_head.update(
            type='CascadeRoIHead', num_stages=stages, bbox_head=[head] * stages,
            stage_loss_weights=[1.0, 0.5, 0.25][:stages],
        )  # fmt: skip
    if masks:
        roi_head.update(
            mask_roi_extractor=extractor(4),
            mask_head=dict(
                type='FCNMaskHead', num_convs=1, in_channels=channels, conv_out_channels=channels,
                num_classes=classes,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
            ),
        )  # fmt: skip
    kind = 'CascadeRCNN' if stages > 1 else 'MaskRCNN' if masks else 'FasterRCNN'
    cfg = dict(
        type=kind,
        _scope_='mmdet',
        **{key: base[key] for key in ('data_preprocessor', 'backbone', 'neck')},
        rpn_head=dict(
            type='RPNHead', in_channels=channels, feat_channels=channels, loss_cls=BCE,
            anchor_generator=dict(_anchors(), octave_base_scale=3),
            bbox_coder=_deltas([1.0] * 4), loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        roi_head=roi_head,
        train_cfg=dict(
            rpn=dict(
                assigner=assigner, sampler=dict(sampler, add_gt_as_proposals=False),
                allowed_border=-1, pos_weight=-1,
            ),
            rpn_proposal=proposals,
            rcnn=[rcnn] * stages if stages > 1 else rcnn,
        ),
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(score_thr=0.05, nms=nms, max_per_img=10, mask_thr_binary=0.5),
        ),
    )  # fmt: skip
    return ConfigDict(cfg)


def _seg_head(kind: str, width: int, classes: int) -> dict:
    last = width * 8
    head = dict(
        in_channels=last, in_index=3, channels=8, num_classes=classes, dropout_ratio=0.0,
        norm_cfg=dict(type='BN', requires_grad=True), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    )  # fmt: skip
    pyramid = dict(in_channels=[width, width * 2, width * 4, last], in_index=[0, 1, 2, 3])
    extra = dict(
        fcn=dict(type='FCNHead', num_convs=1, concat_input=False),
        psp=dict(type='PSPHead', pool_scales=(1, 2)),
        deeplabv3=dict(type='ASPPHead', dilations=(1, 2)),
        deeplabv3plus=dict(
            type='DepthwiseSeparableASPPHead', dilations=(1, 2), c1_in_channels=width, c1_channels=4
        ),
        segformer=dict(type='SegformerHead', **pyramid),
        uper=dict(type='UPerHead', pool_scales=(1, 2), **pyramid),
        ocr=dict(type='OCRHead', ocr_channels=8),
    )[kind]
    return dict(head, **extra)


def segmentor(
    kind: str = 'fcn', width: int = 8, classes: int = 4, pixels: dict = IMAGENET,
    auxiliary: bool = False, backbone: dict | None = None, **head,
) -> dict:  # fmt: skip
    """Config of a segmentor on ResNet-18 of 8 to 64 channels, by the name of its decode head."""
    decode = dict(_seg_head(kind, width, classes), **head)
    cfg = dict(
        type='EncoderDecoder',
        _scope_='mmseg',
        data_preprocessor=dict(
            type='SegDataPreProcessor', pad_val=0, seg_pad_val=255, size_divisor=32, **pixels
        ),
        backbone=dict(
            dict(
                type='ResNet', depth=18, base_channels=width, norm_eval=False,
                out_indices=(0, 1, 2, 3),
            ),
            **(backbone or {}),
        ),
        decode_head=decode,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip
    if kind == 'ocr':
        first = _seg_head('fcn', width, classes)
        cfg.update(type='CascadeEncoderDecoder', num_stages=2, decode_head=[first, decode])
    if auxiliary:
        cfg['auxiliary_head'] = dict(
            _seg_head('fcn', width, classes), in_channels=width * 4, in_index=2
        )
    return cfg


def vit(width: int = 8) -> dict:
    """Config of an FCN on a vision transformer of patches of 16 pixels and a class token."""
    cfg = segmentor()
    cfg['backbone'] = dict(
        type='VisionTransformer', img_size=(64, 64), patch_size=16, embed_dims=width,
        num_layers=2, num_heads=2, mlp_ratio=2, out_indices=(0, 1), interpolate_mode='bilinear',
    )  # fmt: skip
    cfg['decode_head'] = dict(cfg['decode_head'], in_channels=width, in_index=1)
    return cfg


def plain(cfg: dict, seed: int = 0) -> nn.Module:
    """The stock model with weights from its own initialisation."""
    torch.manual_seed(seed)
    # mmdet's query-based detectors write into the config that they are built from
    model = MMENGINE_MODELS.build(copy.deepcopy(dict(cfg)))
    model.init_weights()
    return model


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with weights that tell classes and boxes apart, and BatchNorm statistics moved."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        noise = torch.randn(x.shape, generator=generator)
        if x.dim() > 1:
            x.data = noise * (1.5 / x[0].numel() ** 0.5)
        elif 'running_var' in name or ('weight' in name and x.dim() == 1):
            x.data = 1 + 0.1 * noise.abs()
        elif 'running_mean' in name or 'bias' in name:
            x.data = 0.1 * noise
    return model


def save(model: nn.Module, path, classes=None) -> str:
    """A checkpoint file as mmengine writes it, with class names where given."""
    meta = {} if classes is None else dict(dataset_meta=dict(classes=classes))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    return str(path)


def random_teacher(cfg: dict, **keys) -> dict:
    """A teacher of random weights in the student's classes."""
    return dict(dict(config=cfg, checkpoint=None, classes='same'), **keys)


def distil(student: dict, classes=None, iteration: int = 200, seed: int = 0, **keys) -> nn.Module:
    """A distilled student in training, past every warm-up."""
    torch.manual_seed(seed)
    # 64 pixels are twice the largest stride of these models
    with mock.patch.object(Family, 'dry_run_side', 64):
        model = MODELS.build(dict(type='mmkd.Distiller', student=student, **keys))
    model.init_weights()
    if classes is None:
        head = student.get('bbox_head') or student['decode_head']
        head = head[-1] if isinstance(head, list) else head
        classes = ANIMALS[: head['num_classes']]
    model.distillation.start(classes)
    model.distillation.iteration = iteration
    return model.train()


def norms_in_eval(model: nn.Module) -> nn.Module:
    """The model with BatchNorm and Dropout in eval mode: a pure function of its input."""
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)):
            module.eval()
    return model


def images(shapes=((64, 64), (64, 64)), seed: int = 0) -> list:
    """Raw pixels ``[3, H, W]``, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *s), dtype=torch.uint8, generator=generator) for s in shapes]


def det_batch(model, boxes=None, shapes=((64, 64), (64, 64)), ignored=None, seed: int = 0):
    """Images and samples as the model's own preprocessor gives them.

    Args:
        model: whose preprocessor.
        boxes: ``[x1, y1, x2, y2]`` in pixels by image, of classes 0, 1, ...
        shapes: ``(H, W)`` of the images.
        ignored: boxes to ignore, by image.
        seed: of the pixels.
    """
    from mmdet.structures import DetDataSample

    boxes = [[[8, 8, 40, 44]], [[20, 4, 60, 30], [4, 30, 30, 60]]] if boxes is None else boxes
    samples = []
    for index, (shape, image_boxes) in enumerate(zip(shapes, boxes)):
        meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_id=index)
        sample = DetDataSample(metainfo=meta)
        ignore = torch.tensor(ignored[index] if ignored else [], dtype=torch.float32)
        for field, values in (
            ('gt_instances', torch.tensor(image_boxes, dtype=torch.float32)),
            ('ignored_instances', ignore),
        ):
            labels = torch.arange(len(values))
            setattr(sample, field, InstanceData(bboxes=values.reshape(-1, 4), labels=labels))
        if getattr(getattr(model, 'roi_head', None), 'with_mask', False):
            sample.gt_instances.masks = _filled_boxes(image_boxes, shape)
        samples.append(sample)
    data = dict(inputs=images(shapes, seed), data_samples=samples)
    data = model.data_preprocessor(data, training=True)
    return data['inputs'], data['data_samples']


def _filled_boxes(boxes, shape):
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((len(boxes), *shape), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
    return BitmapMasks(masks, *shape)


def seg_batch(model, labels=None, shapes=((64, 64), (64, 64)), classes: int = 4, seed: int = 0):
    """Images and samples as the model's own preprocessor gives them.

    Args:
        model: whose preprocessor.
        labels: ``[H, W]`` by image; ``None``: a block of each class.
        shapes: ``(H, W)`` of the images.
        classes: how many there are.
        seed: of the pixels.
    """
    from mmseg.structures import SegDataSample

    samples = []
    for index, shape in enumerate(shapes):
        if labels is None:
            rows = torch.arange(shape[0])[:, None] * 2 // shape[0]
            label = (2 * rows + torch.arange(shape[1])[None] * 2 // shape[1]) % classes
        else:
            label = labels[index]
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
        sample.gt_sem_seg = PixelData(data=label[None].long())
        samples.append(sample)
    data = dict(inputs=images(shapes, seed), data_samples=samples)
    data = model.data_preprocessor(data, training=True)
    return data['inputs'], data['data_samples']


def batch_for(model, **kwargs):
    """A batch of the right kind."""
    make = det_batch if hasattr(model, 'bbox_head') else seg_batch
    return make(model, **kwargs)


def total(losses: dict) -> torch.Tensor:
    """What the runner would send backward."""
    values = []
    for name, value in losses.items():
        if 'loss' in name:
            values += value if isinstance(value, (list, tuple)) else [value]
    return torch.stack([v.sum() for v in values]).sum()
