"""Gradients taken at once, and piece by piece, are those of ordinary autograd."""

import weakref

import pytest
import torch
import torch.nn.functional as F

from mmkd.losses.functional import kl_divergence, losses_at_once
from mmkd.losses.functional.common import mean_rows_of


def two_losses(outputs):
    (a, b), _ = outputs['cls'], outputs['box']
    return dict(first=(a * b).square().sum(), second=b.sin().mean(), constant=torch.tensor(3.0))


def test_each_loss_has_its_own_slope():
    inputs = [torch.randn(2, 3, requires_grad=True) for _ in range(3)]
    outputs = dict(cls=inputs[:2], box=inputs[2:])
    expected = two_losses(outputs)
    losses = losses_at_once(two_losses, outputs)
    assert {name: x.item() for name, x in losses.items()} == {
        name: x.item() for name, x in expected.items()
    }
    gradients = [
        torch.autograd.grad(3 * x['first'] - 0.5 * x['second'], inputs, allow_unused=True)
        for x in (losses, expected)
    ]
    for ours, theirs in zip(*gradients):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


def test_what_a_loss_keeps_is_gone_when_it_returns():
    kept = []

    def loss(outputs):
        large = outputs['cls'][0].exp()
        kept.append(weakref.ref(large))
        return dict(loss=large.square().sum())

    value = losses_at_once(loss, dict(cls=[torch.randn(5, requires_grad=True)]))['loss']
    assert value.requires_grad
    assert kept[0]() is None


def test_inputs_without_gradient_give_losses_without_one():
    assert not losses_at_once(lambda x: dict(loss=x['cls'][0].sum()), dict(cls=[torch.ones(2)]))[
        'loss'
    ].requires_grad


@pytest.mark.parametrize('shape', [(5000, 80), (2, 19, 150, 90), (2, 19, 9000)])
def test_pieces_equal_the_whole(shape):
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64)
    weight = torch.rand(shape[0], *shape[2:], dtype=torch.float64)
    weight[weight < 0.3] = 0
    pieces = []

    def rule(s, t):
        pieces.append(s.shape)
        return (s - t).square().sum(1, keepdim=True)

    value = mean_rows_of(rule, student, teacher, weight.unsqueeze(1), None)
    assert len(pieces) > 1
    rows = weight * (student - teacher).square().sum(1)
    torch.testing.assert_close(value, rows.sum() / weight.numel())
    torch.testing.assert_close(
        *(torch.autograd.grad(x, student)[0] for x in (value, rows.sum() / weight.numel()))
    )


def test_a_published_loss_over_many_pieces():
    student = torch.randn(3, 7, 140, 120, requires_grad=True)
    teacher = torch.randn(3, 7, 140, 120)
    expected = F.kl_div(
        student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction='none'
    )
    expected = expected.sum() / (3 * 140 * 120)
    value = kl_divergence(student, teacher)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (value, expected)))
