"""Early predictions of dense detectors."""

import copy

import pytest
import torch
from toys import (
    det_batch,
    detector,
    distil,
    lively,
    plain,
    random_teacher,
    save,
    segmentor,
    total,
)

KINDS = ('retina', 'fcos', 'atss', 'gfl')
SUMS = [f'neck.fpn_convs.{i}:in' for i in range(3)]


def with_exit(kind='retina', student=None, teacher='random', terms=None, **keys):
    exit_cfg = dict(dict(type='DenseExit', tap='backbone[1:]'), **keys)
    teacher = random_teacher(detector(kind, width=16)) if teacher == 'random' else teacher
    return distil(
        student or detector(kind), teacher=teacher, exits=dict(e=exit_cfg), terms=terms
    )  # fmt: skip


def early(losses):
    return {n[2:]: v for n, v in losses.items() if n.startswith('e.')}


def summed(losses):
    return {n: sum(v) if isinstance(v, list) else v for n, v in losses.items()}


def pyramid_of(model, inputs):
    part = model.distillation.parts[-1]
    levels = [level(x) for level, x in zip(part.levels, model.backbone(inputs)[1:])]
    for convolution in part.extra:
        levels.append(convolution(levels[-1].relu()))
    return levels


@pytest.mark.parametrize('kind', KINDS)
def test_a_light_copy_of_the_students_own_head(kind):
    cfg = detector(kind)
    cfg['bbox_head']['stacked_convs'] = 2
    model = with_exit(kind, student=cfg)
    branch = model.distillation.parts[0].branch
    assert type(branch) is type(model.bbox_head)
    assert (len(branch.cls_convs), len(model.bbox_head.cls_convs)) == (1, 2)
    inputs, samples = det_batch(model)
    shapes = [[x.shape for x in maps] for maps in branch(tuple(pyramid_of(model, inputs)))]
    main = model.bbox_head(model.extract_feat(inputs))
    assert shapes == [[x.shape for x in maps] for maps in main]
    losses = early(model.loss(inputs, samples))
    parts = {'cls', 'bbox'}
    parts |= {'centerness'} if kind in ('fcos', 'atss') else set()
    parts |= {'dfl'} if kind == 'gfl' else set()
    assert set(losses) == {f'{who}_loss_{p}' for who in ('gt', 'kd') for p in parts}
    total({f'e.{n}': v for n, v in losses.items()}).backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0
    assert model.bbox_head.cls_convs[0].conv.weight.grad is None


@pytest.mark.parametrize('kind', KINDS)
def test_equal_logits_have_the_main_heads_losses(kind):
    model = with_exit(kind, tap='neck', gt=0.5, kd=0.0, weight=0.25, teacher=None)
    part = model.distillation.parts[0]
    assert not list(part.levels.parameters()) and not len(part.extra)
    lively(model, 5)
    part.branch.load_state_dict(model.bbox_head.state_dict())
    losses = summed(model.loss(*det_batch(model)))
    names = [n for n in losses if n.startswith('loss_')]
    assert len(names) >= 2 and losses['loss_cls'] > 0 and losses['loss_bbox'] > 0
    for name in names:
        torch.testing.assert_close(
            losses[f'e.gt_{name}'], losses[name] * 0.125, rtol=1e-6, atol=0, msg=name
        )


@pytest.mark.parametrize('kind', KINDS)
def test_equal_logits_are_distilled_as_final_predictions_are(kind):
    terms = dict(kd=dict(type='LogitKD', weight=0.25))
    model = with_exit(kind, tap='neck', gt=0.0, kd=1.0, weight=0.25, terms=terms)
    lively(model.bbox_head, 5)
    model.distillation.parts[1].branch.load_state_dict(model.bbox_head.state_dict())
    losses = model.loss(*det_batch(model))
    names = [n[3:] for n in losses if n.startswith('kd.')]
    assert 'loss_cls' in names and losses['kd.loss_bbox'] > 0
    for name in names:
        torch.testing.assert_close(losses[f'e.kd_{name}'], losses[f'kd.{name}'], msg=name)


def test_labels_are_assigned_once():
    model = with_exit('atss')
    stock, count = type(model.bbox_head.assigner).assign, []
    model.bbox_head.assigner.assign = lambda *a, **k: (
        count.append(1) or stock(model.bbox_head.assigner, *a, **k)
    )
    branch = model.distillation.parts[0].branch
    branch.assigner.assign = lambda *a, **k: pytest.fail('the exit assigns labels itself')
    model.loss(*det_batch(model))
    assert len(count) == 2  # one per image


def test_levels_that_the_head_expects_beyond_the_stages():
    model = with_exit(tap='backbone[1:3]')
    part = model.distillation.parts[0]
    assert (len(part.levels), len(part.extra)) == (2, 1)
    inputs, _ = det_batch(model)
    assert [x.shape[-1] for x in pyramid_of(model, inputs)[:3]] == [8, 4, 2]
    total(model.loss(*det_batch(model))).backward()
    assert part.extra[0].weight.grad.abs().sum() > 0


def test_top_down_sums_by_their_input():
    model = with_exit(tap=SUMS)
    value = sum(early(model.loss(*det_batch(model))).values())
    value.backward()
    assert model.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0
    assert model.neck.fpn_convs[0].conv.weight.grad is None


def test_width_of_its_own():
    part = with_exit(channels=8, stacked_convs=2).distillation.parts[0]
    assert part.branch.in_channels == part.branch.feat_channels == 8
    assert len(part.branch.cls_convs) == 2
    assert [level[0].out_channels for level in part.levels if len(level)] == [8, 8, 8]


def test_64_wide_where_the_head_is_wider():
    for channels, width in ((96, 64), (16, 16)):
        student = detector(channels=channels)
        model = distil(
            student,
            teacher=random_teacher(student),
            exits=dict(e=dict(type='DenseExit', tap='backbone[1:]')),
        )
        (part,) = model.distillation.parts
        assert part.branch.in_channels == part.branch.feat_channels == width


def test_weight_and_switches_scale_their_losses():
    terms = []
    for keys in (dict(weight=1.0, gt=1.0, kd=1.0), dict(weight=0.5, gt=0.1, kd=3.0)):
        model = with_exit(**keys)
        terms.append(early(model.loss(*det_batch(model))))
    for name, factor in (('gt_loss_cls', 0.05), ('kd_loss_cls', 1.5), ('kd_loss_bbox', 1.5)):
        torch.testing.assert_close(terms[1][name], terms[0][name] * factor)


def test_feature_switch_is_the_feature_term():
    terms = dict(f=dict(type='FeatureKD', tap='neck', weight=0.25 * 0.2))
    model = with_exit(tap='neck', gt=0.0, kd=0.0, feat=0.2, terms=terms)
    losses = model.loss(*det_batch(model))
    assert set(early(losses)) == {'feat_loss'}
    torch.testing.assert_close(losses['e.feat_loss'], losses['f.loss'])


def test_labels_alone_need_no_teacher():
    model = with_exit(teacher=None, gt=1.0, kd=0.0)
    assert set(early(model.loss(*det_batch(model)))) == {'gt_loss_cls', 'gt_loss_bbox'}


def run(model):
    torch.manual_seed(7)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        losses = model.loss(*det_batch(model))
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
    return losses, torch.random.get_rng_state()


def test_weight_0_leaves_weights_buffers_and_the_random_stream_alone():
    cfg = detector(backbone=dict(norm_eval=False))
    stock, model = plain(cfg).train(), with_exit(student=cfg, weight=0.0)
    assert not any(p.requires_grad for p in model.distillation.parameters())
    before = copy.deepcopy(model.distillation.state_dict())
    (ours, stream), (theirs, stock_stream) = run(model), run(stock)
    assert torch.equal(stream, stock_stream) and ours.keys() == theirs.keys()
    for name, value in stock.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for name, value in model.distillation.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_padded_cells_and_ignored_boxes_are_not_distilled(tmp_path):
    path = save(lively(plain(detector())), tmp_path / 't.pth')
    teacher = dict(config=detector(), checkpoint=path, classes='same')
    model = with_exit(tap='neck', gt=0.0, kd=1.0, teacher=teacher)
    outputs = []
    branch = model.distillation.parts[0].branch
    for layer in (branch.retina_cls, branch.retina_reg):
        layer.register_forward_hook(lambda m, a, out: out.retain_grad() or outputs.append(out))
    batch = det_batch(
        model, shapes=((64, 32), (64, 64)), boxes=[[[4, 4, 28, 40]], []],
        ignored=[[], [[0, 0, 64, 64]]],
    )  # fmt: skip
    sum(early(model.loss(*batch)).values()).backward()
    assert len(outputs) == 6
    for out in outputs:
        half = out.shape[-1] // 2
        assert out.grad[0, :, :, half:].eq(0).all() and out.grad[1].eq(0).all()
        assert out.grad[0, :, :, :half].abs().sum() > 0


@pytest.mark.parametrize(
    'keys, message',
    [
        (dict(tap='backbone'), r'strides \[4, 8, 16, 32\], the head works at \[8, 16, 32\]'),
        (dict(tap='backbone[2:]'), r'strides \[16, 32\]'),
        (dict(weight=[0.1, 0.1, 0.1]), 'weight=.*must be one number for DenseExit'),
        (dict(adapter=None), '16 channels|channels, the head 16, and adapter=None'),
        (dict(teacher=None), 'there is none; .*gt=1, kd=0, feat=0'),
        (dict(tap='neck.fpn_convs'), 'never fires; a ModuleList'),
        (dict(student=detector(backbone=dict(frozen_stages=2))), 'no gradient: a frozen stage'),
        (dict(student=detector('fcos')), 'priors differ'),
    ],
)
def test_mistakes_are_one_line(keys, message):
    with pytest.raises(ValueError, match=message) as error:
        with_exit(**keys)
    assert "exit 'e'" in str(error.value) and '\n' not in str(error.value)


def test_a_segmentor_has_no_use_for_it():
    with pytest.raises(ValueError, match="exit 'e': DenseExit needs a RetinaNet"):
        distil(
            segmentor(), exits=dict(e=dict(type='DenseExit', tap='backbone[1:]', gt=1.0, kd=0.0))
        )  # fmt: skip
