import math

import pytest
import torch

from mmkd.losses import BinaryKLDivergence, KLDivergence


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def element(student, teacher, tau):
    s, t = sigmoid(student / tau), sigmoid(teacher / tau)
    return tau**2 * (t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s)))


def table(weight, divisor, tau):
    def reference(student, teacher):
        total = 0.0
        for w_row, s_row, t_row in zip(weight, student, teacher):
            total += sum(w * element(s, t, tau) for w, s, t in zip(w_row, s_row, t_row))
        return total / divisor

    return reference


@pytest.mark.parametrize('tau', [1.0, 3.0])
def test_against_python(agrees_with, tau):
    reference = table([[1] * 4] * 3, 3, tau)
    agrees_with(BinaryKLDivergence(tau), reference, torch.randn(3, 4), 2 * torch.randn(3, 4))


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
        lambda s, t: BinaryKLDivergence()(s, t, weight=given, avg_factor=0.7),
        table(rows, 0.7, 1.0),
        torch.randn(3, 3),
        torch.randn(3, 3),
    )


def test_mask_is_its_own_divisor():
    student, teacher = torch.randn(2, 1, 2, 3), torch.randn(2, 1, 2, 3)
    mask = torch.tensor([[[1, 0, 1], [0, 0, 1]], [[0, 0, 1], [0, 1, 0]]]).bool()
    loss = BinaryKLDivergence()
    kept = loss(student[:, 0][mask][:, None], teacher[:, 0][mask][:, None])
    torch.testing.assert_close(loss(student, teacher, mask=mask), kept)
    torch.testing.assert_close(loss(student, teacher, mask=mask[:, None]), kept)


def test_written_out():
    teacher = torch.tensor([[0.0]])
    student = torch.tensor([[math.log(3.0)]], requires_grad=True)
    loss = BinaryKLDivergence()(student, teacher)
    loss.backward()
    # 0.5 log(0.5 / 0.75) + 0.5 log(0.5 / 0.25); the gradient is q_s - q_t.
    assert loss.item() == pytest.approx(0.1438410362)
    assert student.grad.item() == pytest.approx(0.25)


def test_equal_is_zero():
    logits = 5 * torch.randn(4, 6)
    assert BinaryKLDivergence(2.0)(logits, logits).item() == 0


def test_one_logit_is_a_softmax_over_it_and_zero():
    student, teacher = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    pairs = [torch.cat([x, torch.zeros_like(x)], dim=1) for x in (student, teacher)]
    torch.testing.assert_close(BinaryKLDivergence(2.0)(student, teacher), KLDivergence(2.0)(*pairs))


def test_confident_teacher_keeps_its_digits():
    # BCE minus entropy, the textbook form, loses all of these digits in fp32.
    teacher, student = torch.tensor([[12.0]]), torch.tensor([[12.5]])
    expected = element(12.5, 12.0, 1.0)
    assert BinaryKLDivergence()(student, teacher).item() == pytest.approx(expected, rel=5e-3)


def test_bad_temperature():
    with pytest.raises(ValueError, match='tau=0 must be a positive'):
        BinaryKLDivergence(0)
