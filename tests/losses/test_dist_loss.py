import math

import pytest
import torch

from mmkd.losses import DISTLoss


def probabilities(logits, tau, activation):
    if activation == 'sigmoid':
        return [1 / (1 + math.exp(-z / tau)) for z in logits]
    exps = [math.exp(z / tau) for z in logits]
    return [e / sum(exps) for e in exps]


def correlation(a, b, weights):
    total = sum(weights)
    mean_a, mean_b = (sum(w * v for w, v in zip(weights, x)) / total for x in (a, b))
    a, b = [v - mean_a for v in a], [v - mean_b for v in b]
    dot, aa, bb = (
        sum(w * u * v for w, u, v in zip(weights, x, y)) for x, y in ((a, b), (a, a), (b, b))
    )
    return dot / (math.sqrt(aa) * math.sqrt(bb) + 1e-8)


def dist(weights, inter=1.0, intra=1.0, tau=1.0, activation='softmax'):
    """Of rows ``[M][K]`` with a weight each."""

    def reference(student, teacher):
        kept = [i for i, w in enumerate(weights) if w > 0]
        w = [weights[i] for i in kept]
        s, t = ([probabilities(x[i], tau, activation) for i in kept] for x in (student, teacher))
        classes = len(s[0])
        rows = sum(v * (1 - correlation(a, b, [1.0] * classes)) for v, a, b in zip(w, s, t))
        columns = sum(
            1 - correlation([r[k] for r in s], [r[k] for r in t], w) for k in range(classes)
        )
        return tau**2 * (inter * rows / sum(w) + intra * columns / classes)

    return reference


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_rows_against_python(agrees_with, tau, activation):
    agrees_with(
        DISTLoss(2.0, 0.5, tau, activation),
        dist([1.0] * 5, 2.0, 0.5, tau, activation),
        torch.randn(5, 4),
        2 * torch.randn(5, 4),
    )


@pytest.mark.parametrize('binary', [False, True])
@pytest.mark.parametrize('parts', [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_masked_maps_against_python(agrees_with, parts, binary):
    mask = torch.rand(2, 2, 3, dtype=torch.float64) + 0.1
    mask[0, 1, :2] = mask[1, 0, 0] = 0
    if binary:
        mask = (mask > 0).double()
    reference = dist(mask.flatten().tolist(), *parts)

    def rows(x):
        return torch.tensor(x, dtype=torch.float64).permute(0, 2, 3, 1).reshape(-1, 3).tolist()

    agrees_with(
        lambda s, t: DISTLoss(*parts)(s, t, mask=mask),
        lambda s, t: reference(rows(s), rows(t)),
        torch.randn(2, 3, 2, 3),
        torch.randn(2, 3, 2, 3),
    )


def test_written_out():
    # Rows (1/2, 1/4, 1/4) and (1/4, 1/2, 1/4) beside the same two exchanged. Centred, times 12:
    # (2, -1, -1) beside (-1, 2, -1), rho -1/2 in either row. Classes 1 and 2 are exchanged, rho -1;
    # class 3 is constant and correlates with nothing.
    student = torch.tensor([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0]]).log()
    teacher = student.flip(0)
    assert DISTLoss(1, 0)(student, teacher).item() == pytest.approx(1.5)
    assert DISTLoss(0, 1)(student, teacher).item() == pytest.approx((2 + 2 + 1) / 3)
    assert DISTLoss()(student, teacher).item() == pytest.approx(1.5 + 5 / 3)


def test_equal_is_zero():
    x = torch.randn(2, 5, 6, 6)
    assert DISTLoss()(x, x).item() == pytest.approx(0, abs=1e-5)
    assert DISTLoss(activation='sigmoid')(x, x).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_what_is_constant_has_no_gradient(activation, dtype):
    teacher = torch.randn(64, 4, dtype=dtype)
    # all logits equal: neither classes nor rows differ
    student = torch.full((64, 4), 0.3, dtype=dtype, requires_grad=True)
    loss = DISTLoss(activation=activation)(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(2)
    assert student.grad.eq(0).all()
    # classes differ, rows do not
    student = torch.randn(1, 4, dtype=dtype).repeat(64, 1).requires_grad_()
    loss = DISTLoss(0, 1, activation=activation)(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(1) and student.grad.eq(0).all()


def test_small_but_real_differences_count_in_full():
    # an untrained detector's scores: 0.01, differing in the fourth digit
    student = -4.6 + 1e-2 * torch.randn(200, 9, dtype=torch.float64)
    teacher = torch.randn(200, 9, dtype=torch.float64)
    expected = dist([1.0] * 200, activation='sigmoid')(student.tolist(), teacher.tolist())
    value = DISTLoss(activation='sigmoid')(student.float(), teacher.float())
    assert value.item() == pytest.approx(expected, abs=1e-4)


def test_one_valid_row_has_no_relation_to_others():
    mask = torch.tensor([[[1, 0]]])
    student, teacher = torch.randn(2, 1, 3, 1, 2).unbind()
    expected = DISTLoss(1, 0)(student[..., 0].flatten(1), teacher[..., 0].flatten(1)) + 1
    torch.testing.assert_close(DISTLoss()(student, teacher, mask=mask), expected)


def test_mistakes():
    with pytest.raises(ValueError, match="activation='relu' must be 'softmax' or 'sigmoid'"):
        DISTLoss(activation='relu')
    with pytest.raises(ValueError, match=r'DISTLoss: tau=0 must be a positive'):
        DISTLoss(tau=0)
