import math

import pytest
import torch

from mmkd.losses import DKDLoss
from mmkd.losses.functional import dkd_loss, kl_divergence


def soften(logits, tau):
    exps = [math.exp(z / tau) for z in logits]
    return [e / sum(exps) for e in exps]


def kl(target, given):
    return sum(t * math.log(t / g) for t, g in zip(target, given))


def row(student, teacher, y, alpha, beta, tau):
    """Of one row of logits, by sums of probabilities."""
    p_s, p_t = soften(student, tau), soften(teacher, tau)
    own = kl([p_t[y], 1 - p_t[y]], [p_s[y], 1 - p_s[y]])
    rest = [i for i in range(len(student)) if i != y]
    others = kl([p_t[i] / (1 - p_t[y]) for i in rest], [p_s[i] / (1 - p_s[y]) for i in rest])
    return tau**2 * (alpha * own + beta * others)


@pytest.mark.parametrize('tau', [1.0, 3.0])
def test_rows_against_python(agrees_with, tau):
    label = torch.tensor([2, -1, 0, 4, 1])  # row 1 and row 3 have no class

    def reference(student, teacher):
        kept = [i for i in range(5) if label[i] in (0, 1, 2, 3)]
        rows = [row(student[i], teacher[i], label[i], 1.5, 0.7, tau) for i in kept]
        return sum(rows) / 3

    loss = DKDLoss(alpha=1.5, beta=0.7, tau=tau)
    agrees_with(
        lambda s, t: loss(s, t, label=label), reference, torch.randn(5, 4), 2 * torch.randn(5, 4)
    )


@pytest.mark.parametrize('masked', [False, True])
def test_maps_against_python(agrees_with, masked):
    # B equals H: what broadcast along the wrong axis would go unnoticed by shape
    label = torch.tensor([[[0, 1, 2], [255, 0, -1]], [[2, 2, 1], [0, 0, 1]]])
    mask = torch.rand(2, 2, 3, dtype=torch.float64)
    mask[1, 0] = 0

    def reference(student, teacher):
        total = count = 0.0
        for b in range(2):
            for y in range(2):
                for x in range(3):
                    if label[b, y, x] in (0, 1, 2):
                        s, t = ([c[y][x] for c in image[b]] for image in (student, teacher))
                        weight = mask[b, y, x].item() if masked else 1.0
                        total += weight * row(s, t, label[b, y, x], 1.0, 0.25, 1.0)
                        count += weight
        return total / count

    context = dict(mask=mask) if masked else {}
    agrees_with(
        lambda s, t: DKDLoss()(s, t, label=label, **context),
        reference,
        torch.randn(2, 3, 2, 3),
        torch.randn(2, 3, 2, 3),
    )


def test_written_out():
    teacher = torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 3.0]]).log()
    student = torch.zeros(2, 3)
    # The first teacher has p = (1/2, 1/4, 1/4) beside (1/3, 1/3, 1/3): the others are equal. The
    # second has (1/3, 1/6, 1/2): the labelled class is equal, the others (1/4, 3/4) beside 1/2.
    own = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
    others = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    value = DKDLoss()(student, teacher, label=torch.zeros(2, dtype=torch.long))
    assert value.item() == pytest.approx((own + 0.25 * others) / 2)


def test_plain_kl_weighs_the_others_by_what_the_teacher_leaves_them():
    student, teacher = torch.randn(2, 1, 5, dtype=torch.float64)
    label = torch.tensor([3])
    left = 1 - (teacher / 2).softmax(1)[0, 3].item()
    torch.testing.assert_close(
        dkd_loss(student, teacher, label, beta=left, tau=2.0),
        kl_divergence(student, teacher, tau=2.0),
    )


def test_equal_up_to_a_shift_is_zero():
    logits, label = torch.randn(2, 5, 3, 3), torch.randint(0, 5, (2, 3, 3))
    assert DKDLoss()(logits, logits, label=label).item() == 0
    shifted = logits + torch.randn(2, 1, 3, 3)
    assert DKDLoss()(shifted, logits, label=label).item() == pytest.approx(0, abs=1e-6)


def test_two_that_are_sure_of_opposite_classes():
    # KL((1, 0) || (e^-40, 1)) is 40; clamped at 1e-7, as published, it would end at 16
    student = torch.tensor([[0.0, 40.0]], requires_grad=True)
    loss = DKDLoss()(student, torch.tensor([[40.0, 0.0]]), label=torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(40)
    torch.testing.assert_close(student.grad, torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize('fill', [0.0, float('nan'), float('inf')])
@pytest.mark.parametrize('outside', [-1, 3, 255])
def test_rows_without_a_class_cannot_be_felt(outside, fill):
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    expected = DKDLoss()(student[1:], teacher[1:], label=torch.tensor([0, 1, 2]))
    student[0], teacher[0] = fill, fill
    student.requires_grad_()
    value = DKDLoss()(student, teacher, label=torch.tensor([outside, 0, 1, 2]))
    value.backward()
    torch.testing.assert_close(value, expected)
    assert student.grad[0].eq(0).all() and student.grad[1:].abs().sum() > 0


def test_no_row_with_a_class_is_zero_with_a_graph():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    label = torch.full((2, 4, 4), -1)
    loss = DKDLoss()(student, torch.randn(2, 3, 4, 4), label=label)
    loss.backward()
    assert loss.item() == 0 and student.grad.eq(0).all()


def test_weight_leaves_the_divisor_alone():
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    label, weight = torch.tensor([0, 2, -1, 1]), torch.tensor([1.0, 0.0, 3.0, 0.5])
    loss = DKDLoss()
    first, last = (loss(student[[i]], teacher[[i]], label=label[[i]]) for i in (0, 3))
    value = loss(student, teacher, label=label, weight=weight)
    torch.testing.assert_close(value, (first + 0.5 * last) / 3)
    value = loss(student, teacher, label=label, weight=weight, avg_factor=2.5)
    torch.testing.assert_close(value, (first + 0.5 * last) / 2.5)


def test_a_label_of_another_shape():
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r'label of shape \(2, 2, 2\) .*\(2, 3, 4, 4\).*\(2, 4, 4'):
        DKDLoss()(x, x, label=torch.zeros(2, 2, 2, dtype=torch.long))


@pytest.mark.parametrize('tau', [0.0, -1.0, float('nan')])
def test_bad_temperature(tau):
    with pytest.raises(ValueError, match=r'DKDLoss: tau=.* must be a positive'):
        DKDLoss(tau=tau)
