"""Mask2Former and MaskFormer of mmseg and mmdet at toy size."""

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData, PixelData
from toys import IMAGENET, images

WIDTH = 8  # of the queries


def _attention(num_heads: int = 2) -> dict:
    return dict(embed_dims=WIDTH, num_heads=num_heads, batch_first=True)


def _ffn() -> dict:
    return dict(
        embed_dims=WIDTH, feedforward_channels=WIDTH, num_fcs=2, ffn_drop=0.0,
        act_cfg=dict(type='ReLU', inplace=True),
    )  # fmt: skip


def _head(kind: str, width: int, queries: int, classes: int, layers: int) -> dict:
    sine = dict(num_feats=WIDTH // 2, normalize=True)
    decoder = dict(
        return_intermediate=True, num_layers=layers,
        layer_cfg=dict(
            self_attn_cfg=_attention(), cross_attn_cfg=_attention(), ffn_cfg=_ffn()
        ),
    )  # fmt: skip
    dice = dict(eps=1.0, weight=5.0)
    head = dict(
        type=kind, in_channels=[width, width * 2, width * 4, width * 8], feat_channels=WIDTH,
        out_channels=WIDTH, num_queries=queries, positional_encoding=sine,
        transformer_decoder=decoder, enforce_decoder_input_project=True,
        loss_cls=dict(
            type='mmdet.CrossEntropyLoss', use_sigmoid=False, loss_weight=2.0, reduction='mean',
            class_weight=[1.0] * classes + [0.1],
        ),
        loss_mask=dict(
            type='mmdet.CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0, reduction='mean'
        ),
        loss_dice=dict(
            type='mmdet.DiceLoss', use_sigmoid=True, activate=True, reduction='mean',
            naive_dice=True, eps=1.0, loss_weight=5.0,
        ),
    )  # fmt: skip
    costs = [
        dict(type='mmdet.ClassificationCost', weight=2.0),
        dict(type='mmdet.CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
        dict(type='mmdet.DiceCost', pred_act=True, **dice),
    ]
    train_cfg = dict(
        num_points=64, oversample_ratio=3.0, importance_sample_ratio=0.75,
        assigner=dict(type='mmdet.HungarianAssigner', match_costs=costs),
        sampler=dict(type='mmdet.MaskPseudoSampler'),
    )  # fmt: skip
    norm = dict(norm_cfg=dict(type='GN', num_groups=4), act_cfg=dict(type='ReLU'))
    if kind == 'MaskFormerHead':
        head['pixel_decoder'] = dict(type='mmdet.PixelDecoder', **norm)
        train_cfg['assigner']['match_costs'][1] = dict(
            type='mmdet.FocalLossCost', weight=20.0, binary_input=True
        )
        head['loss_mask'] = dict(
            type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=20.0
        )
    else:
        deformable = dict(_attention(), num_levels=3, num_points=2)
        encoder = dict(
            num_layers=1, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=_ffn())
        )  # fmt: skip
        head['pixel_decoder'] = dict(
            type='mmdet.MSDeformAttnPixelDecoder', num_outs=3, encoder=encoder,
            positional_encoding=sine, **norm,
        )  # fmt: skip
        head.update(strides=[4, 8, 16, 32], num_transformer_feat_level=3)
    return head, train_cfg


def mask_segmentor(
    kind: str = 'Mask2FormerHead', width: int = 8, queries: int = 6, classes: int = 4,
    layers: int = 2,
) -> dict:  # fmt: skip
    """Config of mmseg's Mask2Former or MaskFormer on ResNet-18, by the name of its head."""
    head, train_cfg = _head(kind, width, queries, classes, layers)
    cfg = dict(
        type='EncoderDecoder', _scope_='mmseg',
        data_preprocessor=dict(
            type='SegDataPreProcessor', pad_val=0, seg_pad_val=255, size_divisor=32, **IMAGENET
        ),
        backbone=dict(type='ResNet', depth=18, base_channels=width, out_indices=(0, 1, 2, 3)),
        decode_head=dict(head, num_classes=classes, align_corners=False, train_cfg=train_cfg),
        train_cfg=dict(), test_cfg=dict(mode='whole'),
    )  # fmt: skip
    return ConfigDict(cfg)


def mask_detector(
    kind: str = 'Mask2FormerHead', width: int = 8, queries: int = 6, things: int = 2,
    stuff: int = 1, layers: int = 2,
) -> dict:  # fmt: skip
    """Config of mmdet's Mask2Former or MaskFormer, panoptic, or of instances with ``stuff=0``."""
    head, train_cfg = _head(kind, width, queries, things + stuff, layers)
    counts = dict(num_things_classes=things, num_stuff_classes=stuff)
    cfg = dict(
        type=kind.removesuffix('Head'), _scope_='mmdet',
        data_preprocessor=dict(
            type='DetDataPreprocessor', pad_size_divisor=32, pad_mask=True, **IMAGENET
        ),
        backbone=dict(
            type='ResNet', depth=18, base_channels=width, frozen_stages=-1,
            out_indices=(0, 1, 2, 3),
        ),
        panoptic_head=dict(head, **counts),
        panoptic_fusion_head=dict(
            type='MaskFormerFusionHead', loss_panoptic=None, init_cfg=None, **counts
        ),
        train_cfg=train_cfg,
        test_cfg=dict(
            panoptic_on=stuff > 0, semantic_on=False, instance_on=True, max_per_image=5,
            iou_thr=0.8, filter_low_score=True,
        ),
    )  # fmt: skip
    return ConfigDict(cfg)


def mask_batch(model, shapes=((64, 64), (64, 64)), seed: int = 0):
    """Images with one object each, as the model's own preprocessor gives them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    samples = []
    for index, shape in enumerate(shapes):
        meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_id=index)
        sample = DetDataSample(metainfo=meta)
        mask = np.zeros((1, *shape), np.uint8)
        mask[:, 8:32, 4:28] = 1
        box = torch.tensor([[4.0, 8.0, 28.0, 32.0]])
        sample.gt_instances = InstanceData(
            bboxes=box, labels=torch.tensor([index % 2]), masks=BitmapMasks(mask, *shape)
        )
        stuff = torch.full((1, *shape), 2)
        stuff[0][torch.from_numpy(mask[0]).bool()] = index % 2
        sample.gt_sem_seg = PixelData(sem_seg=stuff)
        samples.append(sample)
    data = model.data_preprocessor(
        dict(inputs=images(shapes, seed), data_samples=samples), training=True
    )
    return data['inputs'], data['data_samples']
