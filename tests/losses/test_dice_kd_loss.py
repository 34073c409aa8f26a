"""Collapse, matching costs and dice of queries, against plain loops."""

import itertools
import math

import pytest
import torch

from mmkd.losses import DiceKDLoss
from mmkd.losses.functional.mask_query import dice_kd_loss, matching_costs, semantic_logits


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def soften(logits):
    exps = [math.exp(z) for z in logits]
    return [e / sum(exps) for e in exps]


def test_collapse_against_loops():
    classes, masks = torch.randn(2, 3, 5).double(), torch.randn(2, 3, 2, 4).double()
    out = semantic_logits(classes, masks)
    assert out.shape == (2, 4, 2, 4)
    for b, k, y, x in itertools.product(range(2), range(4), range(2), range(4)):
        total = sum(
            soften(classes[b, q].tolist())[k] * sigmoid(masks[b, q, y, x].item()) for q in range(3)
        )
        assert out[b, k, y, x].item() == pytest.approx(math.log(total + 1e-6), rel=1e-9)


def test_its_softmax_is_the_collapse_divided_by_its_sum():
    # one query says class 0 by 3 : 1 and covers the pixel; one of no object does not matter
    classes = torch.tensor([[[math.log(3.0), 0.0, -50.0], [-50.0, -50.0, 50.0]]])
    masks = torch.tensor([[[[2.0]], [[9.0]]]])
    shares = semantic_logits(classes, masks).softmax(1)[0, :, 0, 0]
    torch.testing.assert_close(shares, torch.tensor([0.75, 0.25]), rtol=1e-4, atol=0)


def test_a_pixel_that_no_query_claims_is_undecided_and_finite():
    masks = torch.full((1, 2, 3, 3), -1e4, dtype=torch.float16).requires_grad_()
    out = semantic_logits(torch.randn(1, 2, 4).half() * 1e4, masks)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.softmax(1), torch.full((1, 3, 3, 3), 1 / 3))
    out.sum().backward()
    assert masks.grad.isfinite().all()


def test_collapse_is_in_full_precision_under_autocast():
    classes, masks = torch.randn(1, 9, 4), torch.randn(1, 9, 5, 5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = semantic_logits(classes, masks)
    assert torch.equal(inside, semantic_logits(classes, masks))


def dice(ours, theirs):
    a, b = [sigmoid(x) for x in ours], [sigmoid(x) for x in theirs]
    both = sum(x * y for x, y in zip(a, b))
    return 1 - (2 * both + 1) / (sum(x * x for x in a) + sum(y * y for y in b) + 1)


def bernoulli(s, t):
    s, t = sigmoid(s), sigmoid(t)
    return t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))


def test_costs_against_loops():
    classes, theirs = torch.randn(2, 3, 4).double(), torch.randn(2, 2, 4).double()
    points, their_points = torch.randn(2, 3, 5).double(), torch.randn(2, 2, 5).double()
    score = torch.rand(2, 2).double()
    costs = matching_costs(classes, points, theirs, their_points, score)
    assert costs.shape == (2, 3, 2)
    for b, q, t in itertools.product(range(2), range(3), range(2)):
        s, p = soften(classes[b, q].tolist()), soften(theirs[b, t].tolist())
        kl = sum(y * math.log(y / x) for x, y in zip(s, p))
        rows = points[b, q].tolist(), their_points[b, t].tolist()
        binary = sum(bernoulli(*pair) for pair in zip(*rows)) / 5
        expected = 2 * kl + score[b, t].item() * 5 * (binary + dice(*rows))
        assert costs[b, q, t].item() == pytest.approx(expected, rel=1e-8)


def test_equal_queries_cost_nothing():
    classes, points = torch.randn(1, 4, 3).double(), torch.randn(1, 4, 6).double()
    costs = matching_costs(classes, points, classes, points, torch.ones(1, 4).double())
    assert costs[0].diagonal().abs().max() < 1e-12
    assert costs[0].fill_diagonal_(1.0).min() > 0


@pytest.mark.parametrize('weighted', [False, True])
def test_dice_against_loops(agrees_with, weighted):
    weight = torch.tensor([0.5, 0.0, 2.0]) if weighted else None
    factors = [1.0] * 3 if weight is None else weight.tolist()

    def reference(student, teacher):
        values = [w * dice(s, t) for w, s, t in zip(factors, student, teacher)]
        return sum(values) / 3

    agrees_with(
        lambda s, t: DiceKDLoss()(s, t, weight=weight), reference, torch.randn(3, 4),
        torch.randn(3, 4),
    )  # fmt: skip


def test_dice_written_out_and_equal_masks():
    # a = (1, 0), b = (1, 1): 1 - (2 + 1) / (1 + 2 + 1) = 1 / 4
    student, teacher = torch.tensor([[50.0, -50.0]]), torch.tensor([[50.0, 50.0]])
    assert DiceKDLoss()(student, teacher).item() == pytest.approx(0.25)
    soft = torch.randn(5, 7, requires_grad=True)
    loss = DiceKDLoss()(soft, soft)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert soft.grad.abs().max() < 1e-6


def test_dice_takes_rows():
    with pytest.raises(ValueError, match=r'expected \[M, P\]'):
        dice_kd_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
