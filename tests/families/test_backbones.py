"""Swin, MiT, MobileNetV2 and V3, HRNet, CSPNeXt: terms, exits, files."""

import pytest
from toys import detector, segmentor, vit
from whole_step import takes_a_step

BN = dict(type='BN', requires_grad=True)
SWIN = dict(
    type='SwinTransformer', depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=4, mlp_ratio=2
)


def on(backbone, channels, kind='fcn', **head):
    """A segmentor on this backbone; FCN on its last stage."""
    last = len(channels) - 1
    places = dict(in_channels=channels[-1], in_index=last)
    if kind in ('segformer', 'uper'):
        places = dict(in_channels=list(channels), in_index=list(range(len(channels))))
    cfg = segmentor(kind, **{**places, **head})
    cfg['backbone'] = backbone
    return cfg


def swin(width):
    stages = [width * n for n in (1, 2, 4, 8)]
    return on(dict(SWIN, embed_dims=width), stages, 'uper')


def mit(width):
    backbone = dict(
        type='MixVisionTransformer', embed_dims=width, num_layers=[1] * 4, num_heads=[1, 2, 4, 8],
        sr_ratios=[8, 4, 2, 1], mlp_ratio=2,
    )  # fmt: skip
    return on(backbone, [width * n for n in (1, 2, 4, 8)], 'segformer')


def mobilenetv2(width):
    backbone = dict(
        type='MobileNetV2', widen_factor=width / 80, out_indices=(1, 2, 4, 6), norm_cfg=BN
    )
    return on(backbone, [8, 8, 16, 32] if width == 8 else [8, 8, 24, 64])


def mobilenetv3(width):
    backbone = dict(type='MobileNetV3', arch='small', out_indices=(0, 1, 12), norm_cfg=BN)
    cfg = on(backbone, [16, 16, 576])
    head = dict(
        cfg['decode_head'], type='LRASPPHead', input_transform='multiple_select', channels=width,
        in_channels=(16, 16, 576), in_index=(0, 1, 2), branch_channels=(8, 8),
    )  # fmt: skip
    for name in ('num_convs', 'concat_input'):
        del head[name]
    return dict(cfg, decode_head=head)


def hrnet_stages(width):
    stages = {}
    for count in range(1, 5):
        stages[f'stage{count}'] = dict(
            num_modules=1, num_branches=count, block='BASIC' if count > 1 else 'BOTTLENECK',
            num_blocks=(1,) * count, num_channels=tuple(width * 2**i for i in range(count)),
        )  # fmt: skip
    stages['stage1']['num_channels'] = (8,)
    return stages


def hrnet(width):
    channels = [width * 2**i for i in range(4)]
    backbone = dict(type='HRNet', norm_cfg=BN, extra=hrnet_stages(width))
    places = dict(
        in_channels=channels, in_index=(0, 1, 2, 3), input_transform='resize_concat', kernel_size=1
    )
    return on(backbone, channels, **places)


SEGMENTORS = dict(
    swin=(swin, 'backbone[1:]'),
    mit=(mit, 'backbone[1:]'),
    mobilenetv2=(mobilenetv2, 'backbone[1:]'),
    mobilenetv3=(mobilenetv3, 'backbone[1:]'),
    hrnet=(hrnet, 'backbone[1:]'),
    vit=(vit, 'backbone.layers.0'),
)


def cases(models, *slow):
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in models]


@pytest.mark.parametrize('name', cases(SEGMENTORS, 'mobilenetv3'))
def test_segmentors(name):
    make, tap = SEGMENTORS[name]
    early = 'backbone[0:2]' if name != 'vit' else 'backbone[0]'
    side = 400 if name == 'mobilenetv3' else 64  # LRASPP pools 49 x 49 cells
    takes_a_step(make(8), make(16), tap, early, side=side)


def beneath(backbone, channels, start=1, neck=None):
    """A RetinaNet on this backbone."""
    cfg = detector()
    cfg['backbone'] = backbone
    cfg['neck'] = neck or dict(cfg['neck'], in_channels=channels, start_level=start)
    return cfg


def det_swin(width):
    return beneath(dict(SWIN, embed_dims=width), [width * n for n in (1, 2, 4, 8)])


def det_mobilenetv2(width):
    channels = [8, 16, 32] if width == 8 else [8, 24, 64]
    backbone = dict(type='MobileNetV2', widen_factor=width / 80, out_indices=(2, 4, 6), norm_cfg=BN)
    return beneath(backbone, channels, 0)


def det_cspnext(width):
    backbone = dict(
        type='CSPNeXt', arch='P5', deepen_factor=0.01, widen_factor=width / 64, norm_cfg=BN
    )
    return beneath(backbone, [width * n for n in (4, 8, 16)], 0)


def det_hrnet(width):
    channels = [width * 2**i for i in range(4)]
    neck = dict(type='HRFPN', in_channels=channels, out_channels=16, num_outs=3)
    cfg = beneath(dict(type='HRNet', norm_cfg=BN, extra=hrnet_stages(width)), channels, neck=neck)
    strides = [4, 8, 16]
    cfg['bbox_head']['anchor_generator'] = dict(
        cfg['bbox_head']['anchor_generator'], strides=strides
    )
    return cfg


DETECTORS = dict(
    swin=(det_swin, 'backbone[1:]'),
    mobilenetv2=(det_mobilenetv2, 'backbone'),
    cspnext=(det_cspnext, 'backbone'),
    hrnet=(det_hrnet, 'backbone[0:3]'),
)


@pytest.mark.parametrize('name', cases(DETECTORS, 'hrnet', 'mobilenetv2'))
def test_detectors(name):
    make, early = DETECTORS[name]
    takes_a_step(make(8), make(16), 'neck', early)
