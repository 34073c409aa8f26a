import math

import pytest
import torch

from mmkd.losses import KLDivergence, OFALoss


def soften(logits):
    exps = [math.exp(z) for z in logits]
    return [e / sum(exps) for e in exps]


def row(student, teacher, label, eps):
    total = 0.0
    for k, (s, t) in enumerate(zip(soften(student), soften(teacher))):
        own = 1.0 if k == label else 0.0
        total -= ((t + own) ** eps - own) * math.log(s)
    return total


@pytest.mark.parametrize('eps', [1.0, 1.5, 0.5])
def test_rows_against_python(agrees_with, eps):
    labels = [2, 0, -1, 3, 255]

    def reference(student, teacher):
        known = [i for i, y in enumerate(labels) if 0 <= y < 4]
        return sum(row(student[i], teacher[i], labels[i], eps) for i in known) / len(known)

    agrees_with(
        lambda s, t: OFALoss(eps)(s, t, label=torch.tensor(labels)), reference,
        torch.randn(5, 4), 2 * torch.randn(5, 4),
    )  # fmt: skip


def test_masked_map_against_python(agrees_with):
    mask = torch.tensor([[[1, 0, 1], [0, 0, 1]], [[1, 1, 1], [0, 1, 0]]])
    labels = torch.tensor([[[0, 1, 2], [2, -1, 1]], [[-1, 2, 0], [0, 1, 1]]])

    def reference(student, teacher):
        values = []
        for n in range(2):
            for y in range(2):
                for x in range(3):
                    if mask[n, y, x] and labels[n, y, x] >= 0:
                        s, t = ([c[y][x] for c in maps[n]] for maps in (student, teacher))
                        values.append(row(s, t, labels[n, y, x].item(), 1.5))
        return sum(values) / len(values)

    agrees_with(
        lambda s, t: OFALoss(1.5)(s, t, mask=mask[:, None].bool(), label=labels), reference,
        torch.randn(2, 3, 2, 3), torch.randn(2, 3, 2, 3),
    )  # fmt: skip


def test_written_out():
    student = torch.tensor([[math.log(3.0), 0.0]], requires_grad=True)
    loss = OFALoss(2.0)(student, torch.zeros(1, 2), label=torch.tensor([0]))
    loss.backward()
    # weights (0.5 + 1)^2 - 1 = 1.25 and 0.25: 1.25 log(4 / 3) + 0.25 log 4
    assert loss.item() == pytest.approx(1.25 * math.log(4 / 3) + 0.25 * math.log(4))
    # 1.5 p_s - weights
    torch.testing.assert_close(student.grad, torch.tensor([[1.125 - 1.25, 0.375 - 0.25]]))


def test_at_eps_1_it_is_kl_plus_the_teachers_entropy_with_the_same_gradient():
    student, teacher = torch.randn(6, 5).double(), torch.randn(6, 5).double()
    label = torch.randint(0, 5, (6,))
    gradients, values = [], []
    for loss, context in ((OFALoss(), dict(label=label)), (KLDivergence(), {})):
        x = student.clone().requires_grad_()
        value = loss(x, teacher, **context)
        value.backward()
        gradients.append(x.grad)
        values.append(value.item())
    torch.testing.assert_close(*gradients)
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean().item()
    assert values[0] - values[1] == pytest.approx(entropy)


def test_a_surer_teacher_counts_more_for_the_label_and_less_for_the_rest():
    student = torch.zeros(1, 3)
    teacher = torch.tensor([[1.0, 0.0, 0.0]])
    plain, boosted = [], []
    for eps, grads in ((1.0, plain), (1.5, boosted)):
        x = student.clone().requires_grad_()
        OFALoss(eps)(x, teacher, label=torch.tensor([0])).backward()
        grads += x.grad[0].tolist()
    assert boosted[0] < plain[0] < 0 < plain[1] < boosted[1]


@pytest.mark.parametrize('eps', [0.0, -1.0, float('nan'), float('inf')])
def test_bad_exponent(eps):
    with pytest.raises(ValueError, match=r'OFALoss: eps=.* must be a positive'):
        OFALoss(eps)
