"""BiSeNetV2, STDC, PIDNet, DDRNet, SegNeXt and Fast-SCNN: terms, exits, files."""

import pytest
import torch
from toys import norms_in_eval, plain, segmentor
from whole_step import takes_a_step

from mmkd.families import find_family

BN = dict(type='BN', requires_grad=True)
CE = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)
OHEM = dict(type='OhemCrossEntropy', thres=0.9, min_kept=100, loss_weight=1.0)


def head(in_channels, in_index, **changes):
    return dict(
        dict(
            type='FCNHead', in_channels=in_channels, in_index=in_index, channels=8, num_convs=1,
            concat_input=False, num_classes=4, norm_cfg=BN, align_corners=False, loss_decode=CE,
        ),
        **changes,
    )  # fmt: skip


def model(backbone, decode_head, auxiliary_head=None):
    cfg = dict(segmentor(), backbone=dict(norm_cfg=BN, **backbone), decode_head=decode_head)
    if auxiliary_head:
        cfg['auxiliary_head'] = auxiliary_head
    return cfg


def bisenetv2(width):
    stages = (width, width, width, 2 * width)
    return model(
        dict(
            type='BiSeNetV2', detail_channels=(width, width, 2 * width), semantic_channels=stages,
            semantic_expansion_ratio=2, bga_channels=2 * width, out_indices=(0, 1, 2, 3, 4),
        ),
        head(2 * width, 0),
        [head(channels, i + 1) for i, channels in enumerate(stages)],
    )  # fmt: skip


def stdc(width):
    boundary = head(
        2 * width, 0, type='STDCHead', num_classes=2, boundary_threshold=0.1,
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_name='loss_ce', use_sigmoid=True),
            dict(type='DiceLoss', loss_name='loss_dice'),
        ],
    )  # fmt: skip
    sampler = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)
    return model(
        dict(
            type='STDCContextPathNet',
            backbone_cfg=dict(
                type='STDCNet', stdc_type='STDCNet1', in_channels=3, bottleneck_type='cat',
                channels=(width, width, 2 * width, 4 * width, 8 * width), num_convs=4, norm_cfg=BN,
                act_cfg=dict(type='ReLU'), with_final_conv=False,
            ),
            last_in_channels=(8 * width, 4 * width), out_channels=width,
            ffm_cfg=dict(in_channels=3 * width, out_channels=2 * width, scale_factor=4),
        ),
        head(2 * width, 3, sampler=sampler),
        [head(width, 2), head(width, 1), boundary],
    )  # fmt: skip


def pidnet(width):
    losses = [CE, OHEM, dict(type='BoundaryLoss', loss_weight=20.0), OHEM]
    decode = head(4 * width, 0, type='PIDHead', loss_decode=losses, act_cfg=dict(type='ReLU'))
    for name in ('num_convs', 'concat_input', 'in_index'):
        del decode[name]
    return model(dict(type='PIDNet', channels=width, ppm_channels=width), decode)


def ddrnet(width):
    decode = head(4 * width, 0, type='DDRHead', loss_decode=[OHEM, dict(OHEM, loss_weight=0.4)])
    for name in ('num_convs', 'concat_input', 'in_index'):
        del decode[name]
    return model(dict(type='DDRNet', channels=width, ppm_channels=width), decode)


def segnext(width):
    decode = head(
        [2 * width, 3 * width, 4 * width], [1, 2, 3], type='LightHamHead', ham_channels=8,
        norm_cfg=dict(type='GN', num_groups=4), ham_kwargs=dict(MD_S=1, MD_R=4, train_steps=2),
    )  # fmt: skip
    for name in ('num_convs', 'concat_input'):
        del decode[name]
    return model(
        dict(
            type='MSCAN', embed_dims=[width, 2 * width, 3 * width, 4 * width], mlp_ratios=[2] * 4,
            depths=[1] * 4,
        ),
        decode,
    )  # fmt: skip


def fast_scnn(width):
    return model(
        dict(
            type='FastSCNN', downsample_dw_channels=(width, width), global_in_channels=2 * width,
            global_block_channels=(width, width, width), global_out_channels=2 * width,
            higher_in_channels=2 * width, lower_in_channels=2 * width,
            fusion_out_channels=2 * width,
        ),
        head(2 * width, -1, type='DepthwiseSeparableFCNHead', dw_act_cfg=None),
        [head(2 * width, -2), head(2 * width, -3)],
    )  # fmt: skip


CASES = dict(
    bisenetv2=(bisenetv2, 'backbone[0]', 'backbone[1:3]', None),
    stdc=(stdc, 'backbone[3]', 'backbone[1:3]', None),
    pidnet=(pidnet, 'backbone[1]', 'backbone[1]', 'backbone'),  # one map where it predicts
    ddrnet=(ddrnet, 'backbone[1]', 'backbone[0]', 'backbone'),
    segnext=(segnext, 'backbone[1:]', 'backbone[1:3]', None),
    fast_scnn=(fast_scnn, 'backbone[2]', 'backbone[0:2]', None),
)


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=pytest.mark.slow) if n == 'ddrnet' else n for n in CASES]
)
def test_taught_by_its_like(name):
    make, tap, early, teacher_tap = CASES[name]
    takes_a_step(make(8), make(12), tap, early, teacher_tap)


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_taught_by_a_pspnet(name):
    make, tap, early, _ = CASES[name]
    tap = tap.replace('[1:]', '[3]')
    takes_a_step(make(8), segmentor('psp', width=16), tap, early, 'backbone[1]')


@pytest.mark.parametrize(('make', 'final'), [(pidnet, 1), (ddrnet, 0)])
def test_the_final_map_is_the_one_that_is_left_in_prediction(make, final):
    stock = norms_in_eval(plain(make(8)).train())
    family = find_family(stock)
    inputs, samples = family.dummy_batch(stock, 'cpu')
    maps = []
    forward = stock.decode_head.forward
    stock.decode_head.__dict__['forward'] = lambda x: maps.extend(forward(x)) or tuple(maps)
    with family.listen(stock) as predictions:
        losses = stock.loss(inputs, samples)
    del stock.decode_head.__dict__['forward']
    heard = predictions.outputs['seg'][0]
    assert heard is maps[final]
    taught = family.forward(stock.eval(), inputs, samples).outputs['seg'][0]
    torch.testing.assert_close(heard, taught)
    # early predictions cost what the final map costs in the head's own loss
    ours = family.ground_truth_losses(stock.decode_head, dict(seg=[heard]), predictions)
    own = losses['decode.loss_sem_i' if make is pidnet else 'decode.loss_context']
    assert list(ours) == ['loss_sem'] and torch.equal(ours['loss_sem'], own)
