"""Stages of the student through the frozen teacher's head."""

import copy

import pytest
import torch
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.losses.iou_loss import giou_loss
from mmdet.registry import MODELS as MMDET_MODELS
from torch.nn.functional import logsigmoid
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
    two_stage,
)

from mmkd.families.dense_cross import align
from mmkd.families.dense_heads import decode
from mmkd.terms.tap import Capture, Tap

KINDS = [
    pytest.param('retina', {}, id='retina'),
    pytest.param('fcos', {}, id='fcos'),
    pytest.param('fcos', dict(norm_on_bbox=False, centerness_on_reg=False), id='fcos-exp'),
    pytest.param('atss', {}, id='atss'),
    pytest.param('gfl', {}, id='gfl'),
]
STAGES = Tap.parse('backbone[1:]')
PREDICTORS = dict(retina='retina', fcos='conv', atss='atss', gfl='gfl')


def deep(kind='retina', width=16, channels=24, classes=3, **head):
    """A teacher whose towers have two convolutions."""
    cfg = detector(kind, width=width, channels=channels, classes=classes, **head)
    cfg['bbox_head']['stacked_convs'] = 2
    return cfg


def modest(model, seed=1):
    """Lively weights with a box branch that predicts boxes of a sensible size."""
    lively(model, seed)
    for name, module in model.bbox_head.named_children():
        if name in ('retina_reg', 'conv_reg', 'atss_reg', 'gfl_reg'):
            module.weight.data *= 0.1
            if name == 'conv_reg':
                module.bias.data += 1.0
    for level, scale in enumerate(getattr(model.bbox_head, 'scales', ())):
        scale.scale.data.fill_(1.0 + 0.25 * level)  # each level its own
    return model


def with_exit(
    tmp_path=None, student=None, teacher=None, classes=None, names='same', terms=None, **keys
):  # fmt: skip
    teacher = teacher or deep()
    if tmp_path is None:
        teacher = random_teacher(teacher, classes=names)
    else:
        path = save(modest(plain(teacher)), tmp_path / 'teacher.pth')
        teacher = dict(config=teacher, checkpoint=path, classes=names)
    exit_cfg = dict(dict(type='CrossExit', tap='backbone[1:]', start=1, weight=1.0), **keys)
    return distil(
        student or detector(), classes, teacher=teacher, exits=dict(e=exit_cfg), terms=terms
    )  # fmt: skip


def early(losses):
    return {n[5:]: v for n, v in losses.items() if n.startswith('e.kd_')}


def teacher_of(model):
    return model.distillation.teachers[None].model


@pytest.mark.parametrize('kind, head', KINDS)
@pytest.mark.parametrize('start', [0, 1])
def test_the_teachers_own_feature_gives_its_own_predictions(kind, head, start, tmp_path):
    cfg = deep(kind, **head)
    twin = modest(plain(cfg))
    twin.bbox_head.reg_convs.load_state_dict(twin.bbox_head.cls_convs.state_dict())
    path = save(twin, tmp_path / 'twin.pth')
    tap = ['neck', 'bbox_head.cls_convs.0.activate:in'][start]
    model = distil(
        cfg, student_checkpoint=path, exits=dict(e=dict(type='CrossExit', tap=tap, start=start)),
        teacher=dict(config=cfg, checkpoint=path, classes='same'),
    )  # fmt: skip
    assert not list(model.distillation.parameters())
    maps = predicted_maps(model, kind)
    losses = early(model.loss(*det_batch(model)))
    for first, second in maps.values():  # three levels of the teacher's pass, then of the exit's
        torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-5)
    extra = {'loss_centerness'} if kind in ('fcos', 'atss') else set()
    extra |= {'loss_dfl'} if kind == 'gfl' else set()
    assert set(losses) == {'loss_cls', 'loss_bbox'} | extra
    assert losses.pop('loss_cls') < 2e-5
    for name, value in losses.items():  # GIoU is not smooth where boxes are equal
        assert abs(value.item()) < 1e-4, name


def predicted_maps(model, kind):
    """Fills a pair of lists, without and with a graph, by predictor of the teacher's head."""
    found = {}
    for part in ('cls', 'reg'):
        pair = found[part] = ([], [])
        module = getattr(teacher_of(model).bbox_head, f'{PREDICTORS[kind]}_{part}')
        module.register_forward_hook(
            lambda m, a, out, pair=pair: pair[out.requires_grad].append(out)
        )
    return found


def aligned(x, like):
    """Channel by channel, standardised and given the other's mean and deviation."""
    maps = []
    for mine, other in zip(x.unbind(1), like.unbind(1)):
        spread = ((other.std() ** 2 + 1e-5) / (mine.std() ** 2 + 1e-5)) ** 0.5
        maps.append((mine - mine.mean()) * spread + other.mean())
    return torch.stack(maps, 1)


def by_hand(head, kind, x, level, like):
    """One level's class, box and centerness map, from the second tower convolution on."""
    cls = head.cls_convs[1](aligned(x, like[0]).relu())
    box = head.reg_convs[1](aligned(x, like[1]).relu())
    name = PREDICTORS[kind]
    outputs = [getattr(head, f'{name}_cls')(cls), getattr(head, f'{name}_reg')(box)]
    if kind != 'retina':
        outputs[1] = outputs[1] * (1.0 + 0.25 * level)
    if kind == 'fcos':
        stride = 8 * 2**level
        outputs[1] = outputs[1].clamp(min=0) * stride if head.norm_on_bbox else outputs[1].exp()
    if kind in ('fcos', 'atss'):
        on_box = kind == 'atss' or head.centerness_on_reg
        outputs.append(getattr(head, f'{name}_centerness')(box if on_box else cls))
    return outputs


def flat(maps, width):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, width) for x in maps])


@pytest.mark.parametrize('kind, head', KINDS)
@pytest.mark.parametrize('first', [0, 1], ids=['all-levels', 'two-levels'])
def test_values_and_gradients_are_those_of_an_independent_computation(
    kind, head, first, tmp_path
):  # fmt: skip
    model = with_exit(
        tmp_path, student=detector(kind, **head), teacher=deep(kind, **head),
        tap=f'backbone[{1 + first}:]',
    )  # fmt: skip
    inputs, samples = det_batch(model)
    capture = Capture(model, [STAGES], 'student')
    with capture:
        losses = early(model.loss(inputs, samples))
    stages = capture.read(STAGES)  # each also on the way to the next, here as there
    found = torch.autograd.grad(sum(losses.values()), stages[first:], retain_graph=True)

    teacher, part = teacher_of(model), model.distillation.parts[0]
    assert teacher.bbox_head.training is False
    with torch.no_grad():
        pyramid = teacher.extract_feat(inputs)
        theirs = [list(maps) for maps in teacher.bbox_head(pyramid)]
        convs = teacher.bbox_head.cls_convs[0], teacher.bbox_head.reg_convs[0]
        like = [[conv(x, activate=False) for conv in convs] for x in pyramid]
    ours = [list(maps) for maps in theirs]
    for level in range(first, 3):
        x = part.levels[level - first](stages[level])
        assert x.shape == like[level][0].shape
        outputs = by_hand(teacher.bbox_head, kind, x, level, like[level])
        for maps, out in zip(ours, outputs, strict=True):
            maps[level] = out
    target = flat(theirs[0], 3)
    p = target.sigmoid()
    count = p.amax(1).sum().clamp(min=1)  # over all levels
    here = torch.cat([torch.full((x.numel() // 3,), i >= first) for i, x in enumerate(theirs[0])])
    logits = flat(ours[0], 3)
    bce = -(p * logsigmoid(logits) + (1 - p) * logsigmoid(-logits))
    score = p.amax(1) * here
    boxes, targets = (decode(teacher.bbox_head, x[1], training=False) for x in (ours, theirs))
    expected = dict(
        loss_cls=(((p - logits.sigmoid()).abs() * bce).sum(1) * here).sum() / count,
        loss_bbox=(giou_loss(boxes, targets, reduction='none') * score).sum() / count,
    )
    if kind in ('fcos', 'atss'):
        t, s = flat(theirs[2], 1)[:, 0], flat(ours[2], 1)[:, 0]
        kl = t.sigmoid() * (logsigmoid(t) - logsigmoid(s))
        kl = kl + (-t).sigmoid() * (logsigmoid(-t) - logsigmoid(-s))
        expected['loss_centerness'] = (kl * score).sum() / count
    if kind == 'gfl':
        t, s = (flat(x[1], 9).log_softmax(1) for x in (theirs, ours))
        kl = (t.exp() * (t - s)).sum(1).view(-1, 4).mean(1)
        expected['loss_dfl'] = (kl * score).sum() / count
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert value > 1e-3
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5, msg=name)
    wanted = torch.autograd.grad(sum(expected.values()), stages[first:])
    for mine, other in zip(found, wanted, strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def test_alignment():
    generator = torch.Generator().manual_seed(0)
    x, like = torch.randn(2, 3, 4, 5, generator=generator), torch.zeros(2, 3, 4, 5)
    like[:, 1], like[:, 2, :2] = 7.0, 4.0
    x.requires_grad_()
    out = align(x, like)
    assert out[:, 0].abs().max() < 0.02  # a constant channel asks for a constant
    torch.testing.assert_close(out[:, 1].mean(), torch.tensor(7.0))
    torch.testing.assert_close(out[:, 2].mean(), torch.tensor(2.0))
    torch.testing.assert_close(out[:, 2].std(), like[:, 2].std(), rtol=1e-4, atol=0)
    assert torch.equal(align(x, x), x)
    for still in (torch.zeros(2, 1, 3, 3), torch.ones(1, 1, 1, 1)):  # no spread; a single cell
        still.requires_grad_()
        align(still, torch.randn(still.shape, generator=generator)).sum().backward()
        assert still.grad.isfinite().all()


def test_the_map_before_the_activation_is_what_it_was(tmp_path):
    model = with_exit(tmp_path)
    teacher, tap = model.distillation.teachers[None], model.distillation.parts[0].teacher_taps[0]
    inputs, samples = det_batch(model)
    caught = teacher.run(inputs, samples, {tap}, True).capture.read(tap)
    with torch.no_grad():
        pyramid = teacher.model.extract_feat(inputs)
        expected = [teacher.model.bbox_head.cls_convs[0](x, activate=False) for x in pyramid]
    assert len(caught) == 3 and (caught[0] < 0).any()
    assert all(torch.equal(*pair) for pair in zip(caught, expected, strict=True))


def test_only_the_student_and_its_adapters_learn(tmp_path):
    model = with_exit(tmp_path)
    teacher = teacher_of(model)
    before = copy.deepcopy(teacher.state_dict())
    total({n: v for n, v in model.loss(*det_batch(model)).items() if n[:2] == 'e.'}).backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    own = {id(p) for p in model.parameters()}
    assert own.isdisjoint(id(p) for p in teacher.parameters())
    assert not any('distillation' in name for name in model.state_dict())
    part = model.distillation.parts[0]
    shapes = [tuple(p.shape) for p in part.parameters()]
    assert shapes == [(24, n, 1, 1) for n in (16, 32, 64)]
    assert all(p.grad.abs().sum() > 0 for p in part.parameters())
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0
    assert model.bbox_head.retina_cls.weight.grad is None
    assert part.shapes == [f'{n}x{s}x{s} -> 24 channels' for n, s in ((16, 8), (32, 4), (64, 2))]


@pytest.mark.parametrize('kind', ['fcos', 'atss', 'gfl'])
def test_the_students_own_head_plays_no_part(kind, tmp_path):
    model = with_exit(tmp_path, teacher=deep(kind))
    expected = early(model.loss(*det_batch(model)))
    assert expected['loss_cls'] > 1e-3 and expected['loss_bbox'] > 1e-3
    lively(model.bbox_head, 9)
    losses = early(model.loss(*det_batch(model)))
    assert all(torch.equal(losses[name], value) for name, value in expected.items())


def test_a_two_stage_student(tmp_path):
    model = with_exit(tmp_path, student=two_stage(), classes=('cat', 'dog', 'bird'))
    losses = model.loss(*det_batch(model))
    total({n: v for n, v in losses.items() if n[:2] == 'e.'}).backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0


def test_classes_are_the_teachers_and_only_shared_ones_count(tmp_path):
    names = ('fox', 'dog', 'cat', 'cow')
    model = with_exit(
        tmp_path, teacher=deep(classes=4), names=names, classes=('cat', 'dog', 'bird'),
        kd_losses=dict(loss_bbox=None),
    )  # fmt: skip
    maps = predicted_maps(model, 'retina')
    losses = early(model.loss(*det_batch(model)))
    theirs, ours = (flat(x, 4)[:, [2, 1]] for x in maps['cls'])
    p = theirs.sigmoid()
    bce = -(p * logsigmoid(ours) + (1 - p) * logsigmoid(-ours))
    expected = ((p - ours.sigmoid()).abs() * bce).sum() / p.amax(1).sum()
    torch.testing.assert_close(losses, dict(loss_cls=expected), rtol=1e-4, atol=1e-5)
    sum(losses.values()).backward()


def test_padded_cells_and_ignored_boxes_are_not_distilled(tmp_path):
    model = with_exit(tmp_path)
    maps = predicted_maps(model, 'retina')
    batch = det_batch(
        model, shapes=((64, 32), (64, 64)), boxes=[[[4, 4, 28, 40]], []],
        ignored=[[], [[0, 0, 64, 64]]],
    )  # fmt: skip
    losses = early(model.loss(*batch))
    outputs = [*maps['cls'][1], *maps['reg'][1]]
    gradients = torch.autograd.grad(sum(losses.values()), outputs)
    assert len(gradients) == 6
    for gradient in gradients:
        half = gradient.shape[-1] // 2
        assert gradient[0, :, :, half:].eq(0).all() and gradient[1].eq(0).all()
        assert gradient[0, :, :, :half].abs().sum() > 0


def test_num_pos_weights_and_schedule(tmp_path):
    terms = dict(kd=dict(type='LogitKD'), pos=dict(type='LogitKD', avg_factor='num_pos'))
    keys = dict(tmp_path=tmp_path, teacher=deep(), terms=terms)
    plainly = with_exit(**keys)
    scaled = with_exit(
        weight=0.5, kd_losses=dict(avg_factor='num_pos'), schedule=dict(begin=150), **keys
    )  # fmt: skip
    losses, others = (m.loss(*det_batch(m)) for m in (plainly, scaled))
    ratio = losses['pos.loss_cls'] / losses['kd.loss_cls'] * 0.5 * (200 - 150 + 1) / 100
    for name in ('e.kd_loss_cls', 'e.kd_loss_bbox'):
        torch.testing.assert_close(others[name], losses[name] * ratio, rtol=1e-4, atol=0)
    scaled.distillation.iteration = 149
    off = early(scaled.loss(*det_batch(scaled)))
    assert set(off) == {'loss_cls', 'loss_bbox'} and not any(off.values())


def step(model):
    torch.manual_seed(7)
    losses = model.loss(*det_batch(model))
    total(losses).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, torch.random.get_rng_state()


def test_weight_0_leaves_gradients_and_the_random_stream_alone():
    cfg = detector(backbone=dict(norm_eval=False))
    stock, model = plain(cfg).train(), with_exit(student=cfg, weight=0.0)
    assert not any(p.requires_grad for p in model.distillation.parameters())
    (ours, mine, stream), (theirs, other, stock_stream) = step(model), step(stock)
    assert torch.equal(stream, stock_stream) and ours.keys() == theirs.keys()
    assert mine.keys() == other.keys() and all(torch.equal(mine[n], other[n]) for n in mine)


def test_a_copy_keeps_adapters_and_no_teacher(tmp_path):
    model = with_exit(tmp_path)
    model.loss(*det_batch(model))
    twin = copy.deepcopy(model)
    assert twin.distillation.teachers is None
    mine, other = (m.distillation.state_dict() for m in (model, twin))
    assert len(mine) == 3 and all(torch.equal(mine[n], other[n]) for n in mine)


@MMDET_MODELS.register_module()
class WinkingHead(RetinaHead):
    """A head with the stock losses that runs its layers otherwise."""

    def forward_single(self, x):
        return super().forward_single(-x)


def softmax_head():
    cfg = deep()
    cfg['bbox_head']['loss_cls'] = dict(type='CrossEntropyLoss', loss_weight=1.0)
    return cfg


@pytest.mark.parametrize(
    'keys, message',
    [
        (dict(start=3), 'start=3, but the towers of .* RetinaHead have 2 conv.* start=0 to 2'),
        (dict(start=-1), 'start=-1 must be a number of tower convolutions >= 0'),
        (dict(tap='backbone'), r'strides \[4, 8, 16, 32\], the teacher.s head works at \[8, 16'),
        (dict(tap=['backbone[1]', 'neck[0]']), r'strides \[8, 8\]'),
        (dict(weight=[0.1, 0.1, 0.1]), 'weight=.*must be one number for CrossExit'),
        (dict(adapter=None), '16 channels, the head 24, and adapter=None'),
        (dict(gt=0.5), "unknown argument 'gt'; it has tap, start"),
        (dict(feat=0.5), "unknown argument 'feat'"),
        (dict(kd_losses=dict(loss_dfl=None)), "'loss_dfl'; this family has loss_bbox, loss_cls"),
        (dict(student=detector(backbone=dict(frozen_stages=2))), 'no gradient: a frozen stage'),
        (dict(student=segmentor()), 'CrossExit needs a detector, not EncoderDecoder; use SegExit'),
        (dict(teacher=segmentor(classes=3)), 'teacher must be .*EncoderDecoder has none'),
        (dict(teacher=two_stage()), 'teacher must be a RetinaNet, .*FasterRCNN.s RPN tells'),
        (dict(teacher=softmax_head()), 'teacher must be .*classifies by softmax'),
        (dict(teacher=deep(type='WinkingHead')), 'WinkingHead runs its layers in a way of its own'),
        (
            dict(student=two_stage(), classes=('cat',), kd_losses=dict(avg_factor='num_pos')),
            "avg_factor='num_pos' needs the assignment of a dense student head",
        ),
    ],
)
def test_mistakes_are_one_line(keys, message):
    with pytest.raises(ValueError, match=message) as error:
        with_exit(**keys)
    assert "exit 'e'" in str(error.value) and '\n' not in str(error.value)


def test_without_a_teacher():
    exits = dict(e=dict(type='CrossExit', tap='backbone[1:]'))
    with pytest.raises(ValueError, match=r"exit 'e': .* give teacher=dict\(\.\.\.\)$"):
        distil(detector(), exits=exits)
