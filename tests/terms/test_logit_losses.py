"""Losses of logits and relations in their terms, on real models."""

import math

import pytest
import torch
from toys import (
    det_batch,
    detector,
    distil,
    lively,
    norms_in_eval,
    plain,
    random_teacher,
    save,
    seg_batch,
    segmentor,
)

from mmkd.terms.tap import Capture, Tap

OURS = ('cat', 'dog', 'bird', 'cow')
THEIRS = ('bird', 'plane', 'cat', 'dog', 'fox')
SHARED = ((0, 2), (1, 3), (2, 0))  # our index, theirs: cat, dog, bird
LOSSES = dict(
    DKDLoss=dict(alpha=0.5, beta=2.0),
    NKDLoss=dict(gamma=0.7),
    DISTLoss=dict(inter_loss_weight=2.0),
)


def at_tap(model, address, batch, prefix):
    """A loss and its gradient at a tap of the student."""
    capture = Capture(model, [Tap.parse(address)], 'student')
    with capture:
        losses = model.loss(*batch)
    value = sum(v for name, v in losses.items() if name.startswith(prefix))
    taps = capture.read(Tap.parse(address))
    return value, torch.autograd.grad(value, taps), taps


def softmax(row):
    exps = [math.exp(z) for z in row]
    return [e / sum(exps) for e in exps]


def dkd(s, t, y):
    s, t = softmax(s), softmax(t)
    own = t[y] * math.log(t[y] / s[y]) + (1 - t[y]) * math.log((1 - t[y]) / (1 - s[y]))
    rest = [i for i in range(len(s)) if i != y]
    pairs = [(t[i] / (1 - t[y]), s[i] / (1 - s[y])) for i in rest]
    return 0.5 * own + 2.0 * sum(a * math.log(a / b) for a, b in pairs)


def nkd(s, t, y):
    s, t = softmax(s), softmax(t)
    rest = [i for i in range(len(s)) if i != y]
    others = sum(t[i] / (1 - t[y]) * math.log(s[i] / (1 - s[y])) for i in rest)
    return -t[y] * math.log(s[y]) - 0.7 * others


def dist(s, t, inter):
    """Of probabilities ``[M, K]``, with DIST's 1e-8 beside the norms."""

    def apart(a, b):
        a, b = a - a.mean(), b - b.mean()
        return 1 - (a @ b / (a.norm() * b.norm() + 1e-8)).item()

    rows, columns = ([apart(*pair) for pair in zip(x, y)] for x, y in ((s, t), (s.T, t.T)))
    return inter * sum(rows) / len(rows) + sum(columns) / len(columns)


@pytest.mark.parametrize('name', LOSSES)
def test_segmentors_with_other_classes_and_ignored_pixels(name, tmp_path):
    cfg = segmentor('segformer', width=16, classes=5)
    path = save(lively(plain(cfg), seed=1), tmp_path / 'teacher.pth')
    model = distil(
        segmentor('segformer'), classes=OURS,
        teacher=dict(config=cfg, checkpoint=path, classes=THEIRS),
        terms=dict(kd=dict(type='LogitKD', loss_seg=dict(type=name, **LOSSES[name]))),
    )  # fmt: skip
    lively(model.decode_head, seed=2)
    norms_in_eval(model)
    # in each image, side by side: cat, dog, bird, cow (which the teacher lacks); a strip is ignored
    label = torch.arange(64)[None] // 16 + torch.zeros(64, 1, dtype=torch.long)
    label[48:] = 255
    batch = seg_batch(model, [label, label.flip(1)])
    value, (gradient,), (logits,) = at_tap(model, 'decode_head.conv_seg', batch, 'kd.')
    with torch.no_grad():
        teacher = model.distillation.teachers[None].model
        theirs = teacher.decode_head(teacher.extract_feat(batch[0]))
    assert logits.shape == (2, 4, 16, 16) and theirs.shape == (2, 5, 16, 16)
    seen = []
    for b in range(2):
        for y in range(16):
            for x in range(16):
                own = (label if b == 0 else label.flip(1))[4 * y, 4 * x].item()
                s = [logits[b, i, y, x].item() for i, _ in SHARED]
                t = [theirs[b, j, y, x].item() for _, j in SHARED]
                taught = own != 255 if name == 'DISTLoss' else own < 3
                if taught:
                    seen.append((s, t, own))
                assert bool(gradient[b, :3, y, x].abs().sum() > 0) == taught
    assert gradient[:, 3].eq(0).all()  # cow
    if name == 'DISTLoss':
        ours, theirs = (torch.tensor([row[i] for row in seen]).double() for i in (0, 1))
        expected = dist(ours.softmax(1), theirs.softmax(1), 2.0)
    else:
        rule = dkd if name == 'DKDLoss' else nkd
        expected = sum(rule(*row) for row in seen) / len(seen)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01


@pytest.mark.parametrize('name', LOSSES)
def test_a_batch_that_is_ignored_altogether_is_zero_with_a_whole_graph(name):
    model = distil(
        segmentor(), teacher=random_teacher(segmentor(width=16)),
        terms=dict(kd=dict(type='LogitKD', loss_seg=dict(type=name))),
    )  # fmt: skip
    losses = model.loss(*seg_batch(model, [torch.full((64, 64), 255)] * 2))
    assert losses['kd.loss_seg'] == 0
    losses['kd.loss_seg'].backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.eq(0).all()


@pytest.mark.parametrize('name', ['DKDLoss', 'NKDLoss'])
def test_where_predictions_have_no_label(name):
    loss = dict(type=name)
    with pytest.raises(ValueError, match=f"term 'kd': .*loss_cls: {name} asks for label") as error:
        distil(
            detector(), teacher=random_teacher(detector(width=16)),
            terms=dict(kd=dict(type='LogitKD', loss_cls=loss)),
        )  # fmt: skip
    assert '\n' not in str(error.value)
    with pytest.raises(ValueError, match=f"term 'f': {name} asks for label, which the student"):
        distil(
            detector(), teacher=random_teacher(detector(width=16)),
            terms=dict(f=dict(type='FeatureKD', tap='bbox_head.retina_cls', loss=loss)),
        )  # fmt: skip


@pytest.mark.parametrize('name', ['MGDLoss', 'ReviewKDLoss'])
def test_losses_with_blocks_of_their_own_are_for_features(name):
    with pytest.raises(ValueError, match=f"term 'kd': .*loss_seg: {name} compares feature maps"):
        distil(
            segmentor(), teacher=random_teacher(segmentor()),
            terms=dict(kd=dict(type='LogitKD', loss_seg=dict(type=name))),
        )  # fmt: skip


def test_losses_of_maps_would_drop_the_weights_of_rows():
    term = dict(type='LogitKD', loss_cls=dict(type='ATLoss'))
    with pytest.raises(ValueError, match=r"term 'kd': .*loss_cls: ATLoss compares feature maps"):
        distil(detector(), teacher=random_teacher(detector(width=16)), terms=dict(kd=term))


def test_dist_on_the_class_maps_of_a_dense_detector(tmp_path):
    cfg = detector(width=16)
    path = save(lively(plain(cfg), seed=1), tmp_path / 'teacher.pth')
    loss = dict(type='DISTLoss', activation='sigmoid')
    term = dict(type='FeatureKD', tap='bbox_head.retina_cls', adapter=None, loss=loss)
    model = distil(
        detector(), teacher=dict(config=cfg, checkpoint=path, classes='same'),
        terms=dict(dist=term),
    )  # fmt: skip
    assert not list(model.distillation.parameters())
    inputs, samples = det_batch(model, shapes=((64, 40), (64, 64)))
    value, gradients, maps = at_tap(model, 'bbox_head.retina_cls', (inputs, samples), 'dist.')
    teacher = model.distillation.teachers[None].model
    with torch.no_grad():
        theirs = teacher.bbox_head(teacher.extract_feat(inputs))[0]
    assert [tuple(x.shape) for x in maps] == [(2, 12, n, n) for n in (8, 4, 2)]  # A K = 4 x 3
    total = 0.0
    for ours, other, gradient, stride in zip(maps, theirs, gradients, (8, 16, 32)):
        # a cell whose corner lies in the image's padding is out
        valid = torch.ones(2, *ours.shape[2:], dtype=torch.bool)
        valid[0, :, math.ceil(40 / stride) :] = False
        s, t = (x.detach().double().sigmoid().movedim(1, -1)[valid] for x in (ours, other))
        total += dist(s, t, 1.0)
        assert torch.equal(gradient.abs().sum(1) > 0, valid)
    assert value.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize('loss', ['PairwiseAffinityLoss', 'ATLoss'])
def test_channels_may_differ_without_anything_trained(loss):
    model = distil(
        segmentor(), teacher=random_teacher(segmentor(width=16)),
        terms=dict(f=dict(type='FeatureKD', tap='backbone[1]', loss=dict(type=loss))),
    )  # fmt: skip
    assert not list(model.distillation.parameters())
    label = torch.zeros(64, 64)
    label[:, 32:] = 255
    value, (gradient,), (x,) = at_tap(model, 'backbone[1]', seg_batch(model, [label] * 2), 'f.')
    assert x.shape == (2, 16, 8, 8) and value > 0
    assert gradient[..., :4].abs().sum() > 0 and gradient[..., 4:].eq(0).all()


def test_cosine_joins_channels_by_the_adapter():
    model = distil(
        detector(), teacher=random_teacher(detector(channels=24)),
        terms=dict(
            f=dict(type='FeatureKD', tap='neck', loss=dict(type='CosineFeatureLoss', pool=2))
        ),
    )  # fmt: skip
    value, gradients, _ = at_tap(model, 'neck', det_batch(model), 'f.')
    assert 0 < value < 2 * 3 and all(x.abs().sum() > 0 for x in gradients)
    assert len(list(model.distillation.parameters())) == 6
