"""The student's head through the teacher's: published weights and divisors, by another way."""

import pytest
import torch
from mmdet.models.losses.iou_loss import giou_loss
from torch.nn.functional import logsigmoid
from toys import det_batch, detector, distil, lively, plain, random_teacher, save, segmentor, total

from mmkd.families.dense_heads import decode
from mmkd.terms.tap import Tap

KINDS = ('retina', 'atss', 'gfl', 'fcos')
PREDICTORS = dict(retina='retina', fcos='conv', atss='atss', gfl='gfl')


def deep(kind='retina', width=8, channels=16, classes=3, convs=2):
    """A detector whose towers have two convolutions."""
    cfg = detector(kind, width=width, channels=channels, classes=classes)
    cfg['bbox_head']['stacked_convs'] = convs
    return cfg


def modest(model, seed):
    """Lively weights with a box branch that predicts boxes of a sensible size."""
    lively(model, seed)
    for name, module in model.bbox_head.named_children():
        if name in ('retina_reg', 'conv_reg', 'atss_reg', 'gfl_reg'):
            module.weight.data *= 0.1
            if name == 'conv_reg':
                module.bias.data += 1.0
    return model


def taught(kind, tmp_path, student=None, channels=24, terms=None, **keys):
    cfg = deep(kind, width=16, channels=channels)
    path = save(modest(plain(cfg), 1), tmp_path / 'teacher.pth')
    teacher = dict(config=cfg, checkpoint=path, classes='same')
    term = dict(dict(type='CrossKD', start=1), **keys)
    model = distil(student or deep(kind), teacher=teacher, terms=terms or dict(x=term))
    adapters = model.distillation.state_dict()
    modest(model, 2)
    model.distillation.load_state_dict(adapters)
    return model


def crossed(losses):
    return {n[2:]: v for n, v in losses.items() if n.startswith('x.')}


def aligned(x, like):
    """Channel by channel, standardised and given the other's mean and deviation."""
    maps = []
    for mine, other in zip(x.unbind(1), like.unbind(1)):
        spread = ((other.std() ** 2 + 1e-5) / (mine.std() ** 2 + 1e-5)) ** 0.5
        maps.append((mine - mine.mean()) * spread + other.mean())
    return torch.stack(maps, 1)


def cross_maps(kind, ours, theirs, part, pyramid, teacher_pyramid):
    """By level, what the teacher's second convolutions and predictors make of the student's."""
    maps = []
    for level, (x, y) in enumerate(zip(pyramid, teacher_pyramid)):
        towers = []
        for name, adapter in zip(('cls_convs', 'reg_convs'), part.adapters):
            first, second = getattr(theirs, name)
            mine = adapter(getattr(ours, name)[0](x, activate=False))
            with torch.no_grad():
                other = first(y, activate=False)
            towers.append(second(aligned(mine, other).relu()))
        cls, box = towers
        name = PREDICTORS[kind]
        out = [getattr(theirs, f'{name}_cls')(cls), getattr(theirs, f'{name}_reg')(box)]
        if kind != 'retina':
            out[1] = out[1] * theirs.scales[level].scale
        if kind == 'fcos':
            out[1] = out[1].clamp(min=0) * 8 * 2**level
        if kind == 'atss':
            out.append(theirs.atss_centerness(box))
        maps.append(out)
    return [list(x) for x in zip(*maps)]


def flat(maps, width):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, width) for x in maps])


def assigned(model, inputs, samples):
    """What the stock head's ``get_targets`` gives."""
    head, found = model.bbox_head, []
    stock = head.get_targets
    head.get_targets = lambda *a, **k: found.append(stock(*a, **k)) or found[-1]
    with torch.no_grad():
        type(model).__mro__[2].loss(model, inputs, samples)
    del head.get_targets
    return found[0]


def divisors(kind, targets, teacher_score):
    """Class loss, box loss; which priors have a label; whose label counts."""
    first = 0 if kind in ('retina', 'fcos') else 1
    labels = torch.cat([x.flatten() for x in targets[first]])
    positive = (labels >= 0) & (labels < 3)
    if kind == 'fcos':
        left, top, right, bottom = torch.cat(targets[1])[positive].unbind(1)
        centerness = torch.minimum(left, right) / torch.maximum(left, right)
        centerness = centerness * torch.minimum(top, bottom) / torch.maximum(top, bottom)
        count = centerness.sqrt().sum()
        return count, count, positive, torch.ones(len(labels))
    counts = torch.cat([x.flatten() for x in targets[first + 1]])
    count = positive.sum()
    return count, (teacher_score * counts).sum() if kind == 'gfl' else count, positive, counts


@pytest.mark.parametrize('kind', KINDS)
def test_values_and_gradients_are_those_of_an_independent_computation(kind, tmp_path):
    model = taught(kind, tmp_path)
    inputs, samples = det_batch(model)
    part, teacher = model.distillation.parts[0], model.distillation.teachers[None].model
    watched = [
        model.neck.fpn_convs[1].conv.weight,
        model.bbox_head.cls_convs[0].conv.weight,
        *(adapter.weight for adapter in part.adapters),
    ]
    losses = crossed(model.loss(inputs, samples))
    found = torch.autograd.grad(sum(losses.values()), watched)

    targets = assigned(model, inputs, samples)
    head = teacher.bbox_head
    with torch.no_grad():
        pyramid = teacher.extract_feat(inputs)
        theirs = [list(x) for x in head(pyramid)]
    ours = cross_maps(kind, model.bbox_head, head, part, model.extract_feat(inputs), pyramid)
    t, s = flat(theirs[0], 3), flat(ours[0], 3)
    p, score = t.sigmoid(), t.sigmoid().amax(1)
    by_class, by_box, positive, counts = divisors(kind, targets, score)
    assert by_class > 1 and by_box > 1
    bce = -(p * logsigmoid(s) + (1 - p) * logsigmoid(-s))
    cls = (((p - s.sigmoid()).abs() * bce).sum(1) * counts).sum() / by_class
    boxes, wanted = (decode(head, x[1], training=False) for x in (ours, theirs))
    weight = score * counts
    if kind == 'gfl':
        a, b = (flat(x[1], 9).log_softmax(1) for x in (theirs, ours))
        kl = (a.exp() * (a - b)).sum(1).view(-1, 4).sum(1)
        expected = dict(loss_cls=cls, loss_dfl=4.0 * (kl * weight).sum() / 4 / by_box)
    elif kind == 'fcos':
        low = torch.maximum(boxes[:, :2], wanted[:, :2])
        high = torch.minimum(boxes[:, 2:], wanted[:, 2:])
        inter = (high - low).clamp(min=0).prod(1)
        area = sum((x[:, 2:] - x[:, :2]).prod(1) for x in (boxes, wanted))
        gap = 1 - inter / (area - inter)
        expected = dict(loss_cls=0.4 * cls, loss_bbox=0.75 * (gap * weight).sum() / by_box)
    else:
        gap = giou_loss(boxes, wanted, reduction='none')
        expected = dict(loss_cls=cls, loss_bbox=(gap * weight).sum() / by_box)
    if kind == 'atss':
        c, d = flat(theirs[2], 1)[:, 0].sigmoid(), flat(ours[2], 1)[:, 0]
        bce = -(c * logsigmoid(d) + (1 - c) * logsigmoid(-d))
        expected['loss_centerness'] = bce[positive].sum() / by_class
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert value > 1e-3
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5, msg=name)
    for mine, other in zip(found, torch.autograd.grad(sum(expected.values()), watched)):
        assert other.abs().max() > 1e-5
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('start', [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2))])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind, start, tmp_path):
    cfg = deep(kind)
    path = save(modest(plain(cfg), 3), tmp_path / 'same.pth')
    term = dict(type='CrossKD', start=start, avg_factor='teacher_score')
    model = distil(
        cfg, terms=dict(x=term), student_checkpoint=path,
        teacher=dict(config=cfg, checkpoint=path, classes='same'),
    )  # fmt: skip
    assert not list(model.distillation.parameters())
    losses = crossed(model.loss(*det_batch(model)))
    for name, value in losses.items():
        if name == 'loss_centerness':  # cross entropy, whose least value is the target's entropy
            continue
        assert abs(value.item()) < 1e-4, name


def test_the_students_head_learns_up_to_where_it_leaves(tmp_path):
    model = taught('retina', tmp_path, terms=dict(x=dict(type='CrossKD', start=1)))
    before = {n: x.clone() for n, x in model.distillation.teachers[None].model.state_dict().items()}
    sum(crossed(model.loss(*det_batch(model))).values()).backward()
    head, teacher = model.bbox_head, model.distillation.teachers[None].model
    assert head.cls_convs[0].conv.weight.grad.abs().sum() > 0
    assert head.reg_convs[0].conv.weight.grad.abs().sum() > 0
    assert head.cls_convs[1].conv.weight.grad is None and head.retina_cls.weight.grad is None
    assert all(p.grad is None for p in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert [tuple(p.shape) for p in model.distillation.parameters()] == [(24, 16, 1, 1)] * 2


def test_towers_of_other_depth(tmp_path):
    model = taught('gfl', tmp_path, deep('gfl', convs=1), start=2, student_start=1)
    total(model.loss(*det_batch(model))).backward()
    taps = [tap.address for tap in model.distillation.parts[0].student_taps]
    assert taps == [f'bbox_head.{x}_convs.0.activate:in' for x in ('cls', 'reg')]


def test_the_share_of_the_gradient_is_that_of_the_whole(tmp_path):
    """The activation after the tap writes to the tensor that was tapped."""
    model = taught('retina', tmp_path)
    shares = model.distillation.shares
    shares.start(True)
    losses = model.loss(*det_batch(model))
    total(losses).backward()
    share, rest = shares.read()['x']
    assert share > 0.01 and rest > 0.01


@pytest.mark.parametrize(
    'kind', ['fcos', *(pytest.param(k, marks=pytest.mark.slow) for k in ('atss', 'gfl'))]
)
def test_images_without_labels_teach_and_weigh_no_more(kind, tmp_path):
    model = taught(kind, tmp_path)
    inputs, samples = det_batch(model)
    with_labels = crossed(model.loss(inputs, samples))['loss_cls']
    count, *_ = divisors(kind, assigned(model, inputs, samples), 0)
    losses = crossed(model.loss(*det_batch(model, boxes=[[], []])))
    least = 1 if kind == 'fcos' else 2  # mmdet counts one positive in an empty image
    torch.testing.assert_close(losses['loss_cls'], with_labels * count / least)
    sum(losses.values()).backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.isfinite().all()


def test_padded_cells_and_ignored_boxes_are_not_distilled(tmp_path):
    model = taught('retina', tmp_path)
    found = {}
    for name in ('retina_cls', 'retina_reg'):
        layer = getattr(model.distillation.teachers[None].model.bbox_head, name)
        layer.register_forward_hook(
            lambda m, a, out: found.setdefault(id(m), []).append(out) if out.requires_grad else None
        )
    losses = crossed(model.loss(*det_batch(
        model, shapes=((64, 32), (64, 64)), boxes=[[[4, 4, 28, 40]], []],
        ignored=[[], [[0, 0, 64, 64]]],
    )))  # fmt: skip
    maps = [x for several in found.values() for x in several]
    assert len(maps) == 6
    for gradient in torch.autograd.grad(sum(losses.values()), maps):
        half = gradient.shape[-1] // 2
        assert gradient[0, :, :, half:].eq(0).all() and gradient[1].eq(0).all()
        assert gradient[0, :, :, :half].abs().sum() > 0


def test_weights_and_divisors_are_overridden(tmp_path):
    terms = dict(
        x=dict(type='CrossKD', start=1),
        half=dict(type='CrossKD', start=1, weight=0.5),
        cls=dict(
            type='CrossKD', start=1, loss_bbox=None,
            loss_cls=dict(type='KDQualityFocalLoss', loss_weight=3.0),
        ),
        score=dict(type='CrossKD', start=1, avg_factor='teacher_score'),
    )  # fmt: skip
    model = taught('retina', tmp_path, channels=16, terms=terms)
    losses = model.loss(*det_batch(model))
    assert 'cls.loss_bbox' not in losses
    for name, other, factor in (
        ('half.loss_cls', 'x.loss_cls', 0.5),
        ('half.loss_bbox', 'x.loss_bbox', 0.5),
        ('cls.loss_cls', 'x.loss_cls', 3.0),
    ):
        torch.testing.assert_close(losses[name], losses[other] * factor)
    ratios = [losses[f'score.{n}'] / losses[f'x.{n}'] for n in ('loss_cls', 'loss_bbox')]
    torch.testing.assert_close(*ratios)
    assert abs(ratios[0] - 1) > 1e-3


@pytest.mark.parametrize(
    'keys, message',
    [
        (dict(start=3), "start=3, but the towers of the student's RetinaHead have 2"),
        (dict(start=3, student_start=1), "start=3, but the towers of the teacher's RetinaHead"),
        (dict(start=1, student_start=3), 'student_start=3, but the towers .* student_start=0 to 2'),
        (dict(start=-1), 'start=-1 must be a number of tower convolutions >= 0'),
        (dict(weight=[1.0, 1.0]), 'must be one number for CrossKD'),
        (dict(start=1, adapter=None), '16 channels, the head 24, and adapter=None'),
        (dict(start=1, loss_dfl=None), "'loss_dfl'; this family has loss_bbox, loss_cls"),
        (dict(start=1, avg_factor='pos'), "avg_factor='pos' must be 'published' or"),
        (dict(start=1, teacher_cfg=deep('atss')), 'priors differ'),
        (dict(start=1, teacher_cfg=segmentor(classes=3)), 'CrossKD needs RetinaNet, ATSS, FCOS'),
    ],
)
def test_mistakes_are_one_line(keys, message):
    keys = dict(keys)
    teacher = keys.pop('teacher_cfg', deep(width=16, channels=24))
    with pytest.raises(ValueError, match=message) as error:
        distil(
            deep(), teacher=random_teacher(teacher), terms=dict(x=dict(type='CrossKD', **keys))
        )  # fmt: skip
    assert "'x'" in str(error.value) and '\n' not in str(error.value)


def test_taps_are_before_the_activation_of_both_towers():
    model = distil(
        deep(), teacher=random_teacher(deep(width=16)), terms=dict(x=dict(type='CrossKD', start=2))
    )  # fmt: skip
    part = model.distillation.parts[0]
    expected = [Tap.parse(f'bbox_head.{x}_convs.1.activate:in') for x in ('cls', 'reg')]
    assert part.student_taps == part.teacher_taps == expected
