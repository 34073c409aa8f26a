import math

import pytest
import torch

from mmkd.losses import KLDivergence
from mmkd.losses.functional import kl_divergence


def soften(logits, tau):
    exps = [math.exp(z / tau) for z in logits]
    return [e / sum(exps) for e in exps]


def row_kl(student, teacher, tau):
    pairs = zip(soften(teacher, tau), soften(student, tau))
    return tau**2 * sum(t * math.log(t / s) for t, s in pairs)


def map_kl(mask, tau):
    """KL of [N, K, H, W] lists, over the cells of [N, H, W] weights."""

    def reference(student, teacher):
        total = count = 0.0
        for n, image in enumerate(student):
            for y in range(len(image[0])):
                for x in range(len(image[0][0])):
                    s = [channel[y][x] for channel in image]
                    t = [channel[y][x] for channel in teacher[n]]
                    total += mask[n][y][x] * row_kl(s, t, tau)
                    count += mask[n][y][x]
        return total / count

    return reference


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_rows_against_python(agrees_with, tau):
    def reference(student, teacher):
        return sum(row_kl(s, t, tau) for s, t in zip(student, teacher)) / len(student)

    agrees_with(KLDivergence(tau), reference, torch.randn(3, 4), 2 * torch.randn(3, 4))


@pytest.mark.parametrize('single', [False, True])
def test_masked_map_against_python(agrees_with, single):
    # B equals H, so a mask that broadcast along the wrong axis would go unnoticed by shape.
    mask = torch.tensor([[[1, 0, 1], [0, 0, 1]], [[1, 1, 1], [0, 1, 0]]])
    given = mask[:, None].bool() if single else mask.bool()
    agrees_with(
        lambda s, t: KLDivergence(2.0)(s, t, mask=given),
        map_kl(mask.tolist(), 2.0),
        torch.randn(2, 3, 2, 3),
        torch.randn(2, 3, 2, 3),
    )


def test_fractional_mask_against_python(agrees_with):
    mask = torch.tensor([[[0.1, 0.0], [0.25, 0.05]]], dtype=torch.float64)
    agrees_with(
        lambda s, t: KLDivergence()(s, t, mask=mask),
        map_kl(mask.tolist(), 1.0),
        torch.randn(1, 3, 2, 2),
        torch.randn(1, 3, 2, 2),
    )


def test_written_out():
    teacher = torch.tensor([[0.0, 0.0]])
    student = torch.tensor([[math.log(3.0), 0.0]], requires_grad=True)
    loss = KLDivergence()(student, teacher)
    loss.backward()
    # 0.5 log(0.5 / 0.75) + 0.5 log(0.5 / 0.25) = 0.5 log(4 / 3); the gradient is p_s - p_t.
    assert loss.item() == pytest.approx(0.1438410362)
    torch.testing.assert_close(student.grad, torch.tensor([[0.25, -0.25]]))


def test_equal_up_to_a_shift_is_zero():
    logits = torch.randn(2, 5, 3, 3)
    assert KLDivergence(3.0)(logits, logits).item() == 0
    shifted = logits + torch.randn(2, 1, 3, 3)
    assert KLDivergence(3.0)(shifted, logits).item() == pytest.approx(0, abs=1e-6)


def test_weight_leaves_the_divisor_alone():
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5])
    parts = [kl_divergence(student[i : i + 1], teacher[i : i + 1]).item() for i in range(4)]
    total = sum(w * p for w, p in zip(weight.tolist(), parts))
    loss = KLDivergence()
    assert loss(student, teacher, weight=weight).item() == pytest.approx(total / 4)
    for factor in (2.5, torch.tensor(2.5)):
        out = loss(student, teacher, weight=weight[:, None], avg_factor=factor)
        assert out.item() == pytest.approx(total / 2.5)


def test_mask_and_weight_together_are_refused():
    x = torch.randn(2, 3)
    with pytest.raises(ValueError, match='not both'):
        KLDivergence()(x, x, mask=torch.ones(2), weight=torch.ones(2))


def test_large_temperature_tends_to_half_the_centred_distance():
    student, teacher = torch.randn(6, 5).double(), torch.randn(6, 5).double()
    gap = student - teacher
    gap = gap - gap.mean(1, keepdim=True)
    expected = gap.square().sum(1).mean() / (2 * 5)
    torch.testing.assert_close(
        KLDivergence(1e4)(student, teacher), expected, rtol=1e-3, atol=0, check_dtype=False
    )


@pytest.mark.parametrize('tau', [0.0, -1.0, float('nan'), float('inf')])
def test_bad_temperature(tau):
    with pytest.raises(ValueError, match=r'tau=.* must be a positive'):
        KLDivergence(tau)
