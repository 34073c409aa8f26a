"""Gradient shares are what a second backward pass would have told."""

import pytest
import torch
from toys import (
    det_batch,
    detector,
    distil,
    norms_in_eval,
    random_teacher,
    seg_batch,
    segmentor,
    total,
)

from mmkd.distillers.shares import GradientShares
from mmkd.terms.tap import Capture, Tap


def tiny(scale=1.0, measuring=True):
    shares = GradientShares()
    shares.start(measuring)
    leaf = torch.tensor([1.0, 2.0], requires_grad=True)
    x = leaf * 1.0
    a, b = shares.alias('a', x), shares.alias('b', x)
    loss = (a * torch.tensor([3.0, 0.0])).sum() + (b * torch.tensor([0.0, 2.0])).sum()
    loss = loss + (x * torch.tensor([0.0, 2.0])).sum()
    (loss * scale).backward()
    return shares.read()


def test_known_shares():
    # gradients: a (3, 0), b (0, 2), the rest (0, 2); the whole (3, 4) has norm 5
    shares = tiny()
    assert shares['a'] == pytest.approx((3 / 5, 4 / 5))
    assert shares['b'] == pytest.approx((2 / 5, 13**0.5 / 5))


def test_loss_scaling_cancels():
    assert tiny(scale=1024.0)['a'] == pytest.approx(tiny()['a'])


def test_steps_that_are_not_finite_or_without_gradient_are_left_out():
    assert tiny(scale=float('inf')) == {} and tiny(scale=0.0) == {}


def test_nothing_is_watched_between_measurements():
    assert tiny(measuring=False) == {}


def test_one_tap_read_twice_by_an_owner_adds_up():
    shares = GradientShares()
    shares.start(True)
    x = torch.ones(2, requires_grad=True) * 1.0
    (shares.alias('a', x).sum() + shares.alias('a', x).sum() * 2 + x.sum()).backward()
    assert shares.read()['a'] == pytest.approx((3 / 4, 1 / 4))


def by_autograd(model, batch, addresses, owner):
    taps = [Tap.parse(a) for a in addresses]
    capture = Capture(model, taps, 'student')
    with capture:
        losses = model.loss(*batch)
    tensors = [x for tap in taps for x in capture.read(tap)]
    own = sum(v for n, v in losses.items() if n.startswith(f'{owner}.'))
    own = torch.autograd.grad(own, tensors, retain_graph=True)
    whole = torch.autograd.grad(total(losses), tensors)

    def norm(xs):
        return torch.stack([x.square().sum() for x in xs]).sum().sqrt().item()

    rest = [a - b for a, b in zip(whole, own)]
    return norm(own) / norm(whole), norm(rest) / norm(whole)


def check(model, batch, owners):
    shares = model.distillation.shares
    expected = {o: by_autograd(model, batch, taps, o) for o, taps in owners.items()}
    for scale, passes in ((1.0, 1), (512.0, 1), (0.5, 2)):
        model.zero_grad()
        shares.start(True)
        for _ in range(passes):
            (total(model.loss(*batch)) * scale).backward()
        read = shares.read()
        for owner, pair in expected.items():
            assert read[owner] == pytest.approx(pair, rel=2e-3), (owner, scale, passes)
            assert pair[0] > 1e-4


def test_shares_of_a_segmentor():
    model = distil(
        segmentor(), teacher=random_teacher(segmentor(width=16)),
        terms=dict(f=dict(type='FeatureKD', tap='backbone[1]', weight=2.0)),
        exits=dict(e=dict(type='SegExit', tap='backbone[2]', dropout=0.0)),
    )  # fmt: skip
    check(
        norms_in_eval(model), seg_batch(model),
        dict(f=['backbone[1]'], e=['backbone[2]']),
    )  # fmt: skip


def test_shares_of_a_detector():
    model = distil(
        detector(), teacher=random_teacher(detector(width=16)),
        terms=dict(kd=dict(type='LogitKD', weight=5.0)),
        exits=dict(e=dict(type='DenseExit', tap='neck')),
    )  # fmt: skip
    check(
        model, det_batch(model), dict(kd=['bbox_head[0]', 'bbox_head[1]'], e=['neck'])
    )  # fmt: skip


def test_measuring_changes_no_gradient():
    gradients = []
    for measuring in (False, True):
        model = distil(
            segmentor(), teacher=random_teacher(segmentor()),
            terms=dict(kd=dict(type='LogitKD'), f=dict(type='FeatureKD', tap='backbone[1]')),
        )  # fmt: skip
        model.distillation.shares.start(measuring)
        total(model.loss(*seg_batch(model))).backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
