import math

import pytest
import torch
import torch.nn.functional as F

from mmkd.losses import KDQualityFocalLoss


def table(weight, divisor, beta):
    def reference(student, teacher):
        total = 0.0
        for w_row, s_row, t_row in zip(weight, student, teacher):
            for w, s, t in zip(w_row, s_row, t_row):
                p, q = 1 / (1 + math.exp(-s)), 1 / (1 + math.exp(-t))
                bce = -q * math.log(p) - (1 - q) * math.log(1 - p)
                total += w * abs(p - q) ** beta * bce
        return total / divisor

    return reference


@pytest.mark.parametrize('beta', [0.0, 0.5, 1.0, 2.0])
def test_against_python(agrees_with, beta):
    reference = table([[1] * 4] * 3, 3, beta)
    agrees_with(KDQualityFocalLoss(beta), reference, torch.randn(3, 4), 2 * torch.randn(3, 4))


@pytest.mark.parametrize('form', ['row', 'column', 'element'])
def test_weight_against_python(agrees_with, form):
    weight = torch.tensor([1.0, 0.0, 0.3])
    if form == 'element':
        weight = torch.rand(3, 3)
        rows = weight.tolist()
    else:
        rows = [[w] * 3 for w in weight.tolist()]
    given = weight[:, None] if form == 'column' else weight
    agrees_with(
        lambda s, t: KDQualityFocalLoss()(s, t, weight=given, avg_factor=1.9),
        table(rows, 1.9, 1.0),
        torch.randn(3, 3),
        torch.randn(3, 3),
    )


def test_written_out():
    teacher = torch.tensor([[0.0]])
    student = torch.tensor([[math.log(3.0)]], requires_grad=True)
    loss = KDQualityFocalLoss()(student, teacher)
    loss.backward()
    # p = 3/4, q = 1/2: BCE = -0.5 log(3/16) = 0.8369882; times the gap of 1/4.
    assert loss.item() == pytest.approx(0.2092470435)
    # The factor is not detached: p(1-p) * BCE + gap * (p - q).
    assert student.grad.item() == pytest.approx(0.1875 * 0.8369882168 + 0.25 * 0.25)


def test_beta_zero_is_bce():
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    bce = F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction='sum') / 4
    torch.testing.assert_close(KDQualityFocalLoss(0)(student, teacher), bce)


@pytest.mark.parametrize('beta', [0.5, 1.0, 2.0])
def test_equal_is_zero_without_nan(beta):
    logits = torch.randn(4, 5, requires_grad=True)
    loss = KDQualityFocalLoss(beta)(logits, logits)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize('beta', [-1.0, float('nan')])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match=r'beta=.* must be 0 or'):
        KDQualityFocalLoss(beta)
