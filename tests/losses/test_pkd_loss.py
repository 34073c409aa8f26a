import math

import pytest
import torch

from mmkd.losses import PKDLoss


def channel_cells(x, c, mask):
    return [
        image[c][i][j]
        for b, image in enumerate(x)
        for i in range(len(image[c]))
        for j in range(len(image[c][i]))
        if mask[b][i][j] > 0
    ]


def standardise(cells):
    mean = sum(cells) / len(cells)
    std = math.sqrt(sum((v - mean) ** 2 for v in cells) / (len(cells) - 1))
    return [(v - mean) / std for v in cells]


def pkd(mask):
    weights = channel_cells([[m] for m in mask], 0, mask)

    def reference(student, teacher):
        channels = len(student[0])
        total = 0.0
        for c in range(channels):
            s = standardise(channel_cells(student, c, mask))
            t = standardise(channel_cells(teacher, c, mask))
            total += sum(w * (a - b) ** 2 for w, a, b in zip(weights, s, t))
        return 0.5 * total / (sum(weights) * channels)

    return reference


def test_against_python(agrees_with):
    reference = pkd([[[1] * 3] * 2] * 2)
    agrees_with(PKDLoss(), reference, torch.randn(2, 3, 2, 3), 5 + 3 * torch.randn(2, 3, 2, 3))


@pytest.mark.parametrize('single', [False, True])
@pytest.mark.parametrize('binary', [False, True])
def test_mask_against_python(agrees_with, single, binary):
    mask = torch.rand(2, 2, 3, dtype=torch.float64) + 0.1
    mask[0, 1, :2] = 0
    mask[1, 0, 0] = 0
    if binary:
        mask = (mask > 0).double()
    given = mask[:, None] if single else mask
    agrees_with(
        lambda s, t: PKDLoss()(s, t, mask=given),
        pkd(mask.tolist()),
        torch.randn(2, 2, 2, 3),
        torch.randn(2, 2, 2, 3),
    )


def test_written_out():
    # Standardised: (-1, 0, 1) and (1, 0, -1); squared differences 4, 0, 4; half their mean.
    student = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    teacher = torch.tensor([30.0, 20.0, 10.0]).view(1, 1, 1, 3)
    assert PKDLoss()(student, teacher).item() == pytest.approx(4 / 3)


def test_is_one_minus_pearson():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    rho = [
        torch.corrcoef(torch.stack([student[:, c].flatten(), teacher[:, c].flatten()]))[0, 1]
        for c in range(3)
    ]
    expected = 39 / 40 * (1 - sum(rho) / 3)
    torch.testing.assert_close(PKDLoss()(student, teacher), expected)


def test_blind_to_scale_and_offset_of_a_channel():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    scale, offset = 0.5 + torch.rand(1, 3, 1, 1), torch.randn(1, 3, 1, 1)
    expected = PKDLoss()(student, teacher)
    torch.testing.assert_close(PKDLoss()(scale * student + offset, teacher), expected)
    torch.testing.assert_close(PKDLoss()(student, scale * teacher + offset), expected)
    assert PKDLoss()(student, student).item() == 0
    assert PKDLoss()(scale * student + offset, student).item() == pytest.approx(0, abs=1e-6)
    assert PKDLoss()(-student, student).item() > 1


@pytest.mark.parametrize('value', [0.0, 0.1, 12345.678])
def test_constant_channel_and_single_cell_are_finite(value):
    for shape in ((1, 2, 1, 1), (2, 2, 3, 7)):
        student = torch.full(shape, value, requires_grad=True)
        loss = PKDLoss()(student, torch.randn(shape))
        loss.backward()
        # A constant channel has no direction: it is 0, beside a teacher of variance 1 or 0.
        n = shape[0] * shape[2] * shape[3]
        assert loss.item() == pytest.approx(0.5 * (n - 1) / n, abs=1e-5)
        assert torch.equal(student.grad, torch.zeros(shape))
    mask = torch.zeros(2, 3, 7)
    mask[0, 0, 0] = 1
    assert PKDLoss()(torch.randn(2, 2, 3, 7), torch.randn(2, 2, 3, 7), mask=mask).item() == 0


def test_no_mask_equals_a_mask_of_ones():
    student = torch.randn(2, 4, 5, 6)
    student[:, 1] = 3.25  # constant
    student[:, 2] = 1000 + 0.01 * student[:, 2]  # nearly
    teacher, gradients, values = torch.randn(2, 4, 5, 6), [], []
    for mask in (None, torch.ones(2, 5, 6)):
        x = student.clone().requires_grad_()
        values.append(PKDLoss()(x, teacher, mask=mask))
        gradients.append(*torch.autograd.grad(values[-1], x))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert not gradients[0][:, 1].any()
    assert gradients[0][:, 2].abs().max() > 0.01


def test_bad_layout():
    with pytest.raises(ValueError, match=r'expected \[B, C, H, W\], got shape \(2, 3\)'):
        PKDLoss()(torch.zeros(2, 3), torch.zeros(2, 3))
