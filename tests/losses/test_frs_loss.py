import math

import pytest
import torch
from plain_maths import cells, conv, masked, randomised

from mmkd.losses import FRSClassLoss, FRSLoss


def prepared(ours, theirs):
    loss = FRSLoss()
    loss.prepare(torch.zeros(1, ours, 1, 1), torch.zeros(1, theirs, 1, 1))
    return loss


def frs(loss, scores, mask):
    def reference(student, teacher):
        made, other = conv(masked(student, mask), loss.adapt), masked(teacher, mask)
        above = below = 0.0
        for image, target, own, m in zip(made, other, scores, mask):
            for i, j in cells(m):
                weight = own[0][i][j] * m[i][j]
                below += weight
                gaps = [(p[i][j] - q[i][j]) ** 2 for p, q in zip(image, target)]
                above += weight * sum(gaps)
        return above / below

    return reference


@pytest.mark.parametrize('with_mask', [False, True])
def test_against_python(agrees_with, with_mask):
    mask, scores = torch.ones(2, 3, 3), torch.rand(2, 1, 3, 3)
    if with_mask:
        mask[0, :, 2] = mask[1, 0] = 0
        mask[0, 0, 0] = 0.25
    loss = randomised(prepared(2, 3))
    given = dict(mask=mask) if with_mask else {}
    agrees_with(
        lambda s, t: loss.to(s.dtype)(s, t, scores=scores, **given),
        frs(loss, scores.double().tolist(), mask.tolist()),
        torch.randn(2, 2, 3, 3),
        torch.randn(2, 3, 3, 3),
    )


def test_written_out():
    loss = prepared(2, 2)
    torch.nn.init.zeros_(loss.adapt.weight)
    torch.nn.init.zeros_(loss.adapt.bias)
    teacher = torch.tensor([[1.0, 3.0], [1.0, 0.0]]).view(1, 2, 1, 2)
    scores = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2)
    # squared lengths 2 and 9
    value = loss(torch.zeros(1, 2, 1, 2), teacher, scores=scores)
    assert value.item() == pytest.approx((0.2 * 2 + 0.6 * 9) / 0.8)
    torch.nn.init.dirac_(loss.adapt.weight)
    assert loss(teacher, teacher, scores=scores).item() == 0


def frs_class(weight):
    def reference(student, teacher):
        above = below = 0.0
        for own, other, w in zip(student, teacher, weight):
            scores = [1 / (1 + math.exp(-v)) for v in other]
            below += w * max(scores)
            for v, p in zip(own, scores):
                q = 1 / (1 + math.exp(-v))
                above -= w * max(scores) * (p * math.log(q) + (1 - p) * math.log(1 - q))
        return above / below

    return reference


@pytest.mark.parametrize('with_mask', [False, True])
def test_class_form_against_python(agrees_with, with_mask):
    mask = torch.ones(5)
    if with_mask:
        mask[1], mask[3] = 0, 0.5
    agrees_with(
        lambda s, t: FRSClassLoss()(s, t, mask=mask) if with_mask else FRSClassLoss()(s, t),
        frs_class(mask.tolist()),
        torch.randn(5, 3),
        torch.randn(5, 3),
    )


def test_class_form_takes_the_criterions_divisor():
    student, teacher = torch.randn(6, 3), torch.randn(6, 3)
    total = FRSClassLoss()(student, teacher) * teacher.amax(1).sigmoid().sum()
    torch.testing.assert_close(FRSClassLoss()(student, teacher, avg_factor=4.0), total / 4)
    gradient, *_ = torch.autograd.grad(
        FRSClassLoss()(teacher.requires_grad_(), teacher.detach()), teacher
    )
    torch.testing.assert_close(gradient, torch.zeros_like(teacher))
