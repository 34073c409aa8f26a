import math

import pytest
import torch

from mmkd.losses import ATLoss


def attention(image, mask):
    """Mean square over channels in valid cells, by their norm; ``None`` where nothing is valid."""
    cells = [(y, x) for y in range(len(mask)) for x in range(len(mask[0])) if mask[y][x]]
    energy = {(y, x): sum(c[y][x] ** 2 for c in image) / len(image) for y, x in cells}
    norm = math.sqrt(sum(v * v for v in energy.values()))
    return {cell: v / norm for cell, v in energy.items()}


def at(mask):
    def reference(student, teacher):
        total = count = 0.0
        for s, t, m in zip(student, teacher, mask):
            ours, theirs = attention(s, m), attention(t, m)
            for y, x in ours:
                total += m[y][x] * (ours[y, x] - theirs[y, x]) ** 2
                count += m[y][x]
        return total / count

    return reference


def test_against_python(agrees_with):
    reference = at([[[1] * 3] * 2] * 2)
    agrees_with(ATLoss(), reference, torch.randn(2, 3, 2, 3), torch.randn(2, 5, 2, 3))


@pytest.mark.parametrize('single', [False, True])
@pytest.mark.parametrize('binary', [False, True])
def test_mask_against_python(agrees_with, single, binary):
    mask = torch.rand(2, 2, 3, dtype=torch.float64) + 0.1
    mask[0, 1, 0] = mask[1, 0, 2] = 0
    if binary:
        mask = (mask > 0).double()
    given = mask[:, None] if single else mask
    agrees_with(
        lambda s, t: ATLoss()(s, t, mask=given),
        at(mask.tolist()),
        torch.randn(2, 2, 2, 3),
        torch.randn(2, 4, 2, 3),
    )


def test_written_out():
    # Mean squares (3, 4) and (5, 0): maps (0.6, 0.8) and (1, 0).
    student = torch.tensor([[1.0, 2.0], [5.0**0.5, 2.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([5.0**0.5, 0.0]).view(1, 1, 1, 2)
    assert ATLoss()(student, teacher).item() == pytest.approx((0.4**2 + 0.8**2) / 2)


def test_equal_is_zero_whatever_the_scale_and_the_signs():
    x = torch.randn(2, 4, 5, 5)
    assert ATLoss()(x, x).item() == 0
    signs = torch.randn(2, 4, 5, 5).sign()
    scale = torch.tensor([0.1, 7.0]).view(2, 1, 1, 1)
    assert ATLoss()(scale * signs * x, x).item() == pytest.approx(0, abs=1e-9)


def test_maps_of_zeros_are_finite():
    student = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = ATLoss()(student, torch.rand(1, 3, 4, 4))
    loss.backward()
    assert loss.item() == pytest.approx(1 / 16) and student.grad.eq(0).all()
