import math

import pytest
import torch

from mmkd.losses import NKDLoss


def soften(logits, tau=1.0):
    exps = [math.exp(z / tau) for z in logits]
    return [e / sum(exps) for e in exps]


def row(student, teacher, y, gamma, tau):
    """Of one row of logits."""
    own = -soften(teacher)[y] * math.log(soften(student)[y])
    rest_s, rest_t = ([z for i, z in enumerate(x) if i != y] for x in (student, teacher))
    pairs = zip(soften(rest_t, tau), soften(rest_s, tau))
    return own - gamma * tau**2 * sum(t * math.log(s) for t, s in pairs)


@pytest.mark.parametrize('tau', [1.0, 3.0])
def test_rows_against_python(agrees_with, tau):
    label = torch.tensor([2, -1, 0, 4, 1])

    def reference(student, teacher):
        rows = [row(student[i], teacher[i], label[i], 0.6, tau) for i in (0, 2, 4)]
        return sum(rows) / 3

    loss = NKDLoss(gamma=0.6, tau=tau)
    agrees_with(
        lambda s, t: loss(s, t, label=label), reference, torch.randn(5, 4), 2 * torch.randn(5, 4)
    )


def test_masked_maps_against_python(agrees_with):
    label = torch.tensor([[[0, 1, 2], [255, 0, -1]], [[2, 2, 1], [0, 0, 1]]])
    mask = torch.tensor([[[1, 0, 1], [1, 1, 1]], [[0, 1, 1], [0, 1, 1]]]).bool()

    def reference(student, teacher):
        rows = []
        for b in range(2):
            for y in range(2):
                for x in range(3):
                    if mask[b, y, x] and label[b, y, x] in (0, 1, 2):
                        s, t = ([c[y][x] for c in image[b]] for image in (student, teacher))
                        rows.append(row(s, t, label[b, y, x], 1.5, 1.0))
        return sum(rows) / len(rows)

    agrees_with(
        lambda s, t: NKDLoss()(s, t, label=label, mask=mask[:, None]),
        reference,
        torch.randn(2, 3, 2, 3),
        torch.randn(2, 3, 2, 3),
    )


def test_written_out():
    # Teacher (1/2, 1/8, 3/8), student (1/4, 1/4, 1/2): own -1/2 log 1/4, others (1/4, 3/4) beside
    # (1/3, 2/3).
    teacher = torch.tensor([[4.0, 1.0, 3.0]]).log()
    student = torch.tensor([[1.0, 1.0, 2.0]]).log()
    others = 0.25 * math.log(1 / 3) + 0.75 * math.log(2 / 3)
    value = NKDLoss()(student, teacher, label=torch.tensor([0]))
    assert value.item() == pytest.approx(-0.5 * math.log(0.25) - 1.5 * others)


def test_equal_predictions_are_the_entropies_and_hear_nothing_of_the_others():
    logits = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    value = NKDLoss(gamma=2.0)(logits, logits.detach(), label=label)
    (gradient,) = torch.autograd.grad(value, logits)
    # of p_y log p_y with the teacher's p_y fixed: p_t * (p_s - 1 at y)
    p = logits.detach().softmax(1)
    own = p.gather(1, label[:, None])
    expected = own * (p - torch.nn.functional.one_hot(label, 4)) / 6
    torch.testing.assert_close(gradient, expected)
    assert value > 0


def test_no_row_with_a_class_is_zero_with_a_graph():
    student = torch.randn(4, 3, requires_grad=True)
    loss = NKDLoss()(student, torch.randn(4, 3), label=torch.tensor([-1, 3, 255, -7]))
    loss.backward()
    assert loss.item() == 0 and student.grad.eq(0).all()


@pytest.mark.parametrize('tau', [0.0, float('inf')])
def test_bad_temperature(tau):
    with pytest.raises(ValueError, match=r'NKDLoss: tau=.* must be a positive'):
        NKDLoss(tau=tau)
