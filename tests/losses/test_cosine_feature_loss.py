import math

import pytest
import torch

from mmkd.losses import CosineFeatureLoss


def cosine(a, b):
    return sum(u * v for u, v in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))


def tokens(image, mask, pool):
    """Weight and mean vector of each window with a valid cell; the last windows are cut."""
    height, width = len(mask), len(mask[0])
    found = []
    for top in range(0, height, pool):
        for left in range(0, width, pool):
            ys = range(top, min(top + pool, height))
            xs = range(left, min(left + pool, width))
            cells = [(y, x) for y in ys for x in xs]
            total = sum(mask[y][x] for y, x in cells)
            if total:
                mean = [sum(mask[y][x] * c[y][x] for y, x in cells) / total for c in image]
                found.append((total / len(cells), mean))
    return found


def cosines(mask, pool=1):
    def reference(student, teacher):
        total = count = 0.0
        for s, t, m in zip(student, teacher, mask):
            for (weight, a), (_, b) in zip(tokens(s, m, pool), tokens(t, m, pool)):
                total += weight * (1 - cosine(a, b))
                count += weight
        return total / count

    return reference


@pytest.mark.parametrize('pool', [1, 2, 5])
def test_against_python(agrees_with, pool):
    reference = cosines([[[1] * 3] * 5] * 2, pool)
    agrees_with(
        CosineFeatureLoss(pool), reference, torch.randn(2, 3, 5, 3), torch.randn(2, 3, 5, 3)
    )


@pytest.mark.parametrize('pool', [1, 2])
@pytest.mark.parametrize('binary', [False, True])
def test_mask_against_python(agrees_with, binary, pool):
    mask = torch.rand(2, 2, 3, dtype=torch.float64) + 0.1
    mask[0, :, :2] = mask[1, 0, 2] = 0
    if binary:
        mask = (mask > 0).double()
    agrees_with(
        lambda s, t: CosineFeatureLoss(pool)(s, t, mask=mask[:, None] if binary else mask),
        cosines(mask.tolist(), pool),
        torch.randn(2, 2, 2, 3),
        torch.randn(2, 2, 2, 3),
    )


def test_written_out():
    student = torch.tensor([[3.0, 1.0], [4.0, 0.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[2.0, -5.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    # cosines 3/5 and -1
    assert CosineFeatureLoss()(student, teacher).item() == pytest.approx((0.4 + 2) / 2)
    # pooled to one token: (2, 2) and (-1.5, 0)
    assert CosineFeatureLoss(pool=2)(student, teacher).item() == pytest.approx(1 + 0.5**0.5)


def test_equal_is_zero_whatever_the_length():
    x = torch.randn(2, 4, 5, 5)
    scale = 0.1 + torch.rand(2, 1, 5, 5)
    assert CosineFeatureLoss()(scale * x, x).item() == pytest.approx(0, abs=1e-6)
    assert CosineFeatureLoss(2)(x, x).item() == pytest.approx(0, abs=1e-6)


def test_tokens_of_zeros_count_one_without_gradient():
    student = torch.zeros(1, 3, 2, 2)
    student[..., 0] = 1
    student.requires_grad_()
    teacher = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    loss = CosineFeatureLoss()(student, teacher)
    loss.backward()
    aligned = 1 - 6 / (3 * 14) ** 0.5
    assert loss.item() == pytest.approx((aligned + 1) / 2)
    assert student.grad[..., 1].eq(0).all() and student.grad[..., 0].abs().sum() > 0


def test_masked_windows_hold_what_they_like():
    mask = torch.ones(1, 4, 4)
    mask[:, :2, :3] = 0
    student, teacher = torch.randn(2, 1, 3, 4, 4).unbind()
    expected = CosineFeatureLoss(2)(student, teacher, mask=mask)
    out = mask[:, None] == 0
    student = student.masked_fill(out, float('nan')).requires_grad_()
    loss = CosineFeatureLoss(2)(student, teacher.masked_fill(out, float('inf')), mask=mask)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert student.grad.isfinite().all() and student.grad.masked_select(out).eq(0).all()


@pytest.mark.parametrize('pool', [0, -1, 1.5, None])
def test_bad_pool(pool):
    with pytest.raises(ValueError, match=r'CosineFeatureLoss: pool=.* must be a positive whole'):
        CosineFeatureLoss(pool)
