import pytest
import torch

from mmkd.losses import FeatureMSE


def cells(mask):
    def reference(student, teacher):
        total = count = 0.0
        for b, image in enumerate(student):
            for c, channel in enumerate(image):
                for y, row in enumerate(channel):
                    for x, value in enumerate(row):
                        total += mask[b][y][x] * (value - teacher[b][c][y][x]) ** 2
                        count += mask[b][y][x]
        return total / count

    return reference


def test_against_python(agrees_with):
    reference = cells([[[1] * 3] * 2] * 2)
    agrees_with(FeatureMSE(), reference, torch.randn(2, 3, 2, 3), torch.randn(2, 3, 2, 3))


@pytest.mark.parametrize('single', [False, True])
@pytest.mark.parametrize('binary', [False, True])
def test_mask_against_python(agrees_with, single, binary):
    # B = C = H: a mask that broadcast along the wrong axis would still fit.
    mask = torch.rand(2, 2, 3, dtype=torch.float64)
    mask[0, 1] = 0
    if binary:
        mask = (mask > 0.4).double()
    given = mask[:, None] if single else mask
    agrees_with(
        lambda s, t: FeatureMSE()(s, t, mask=given),
        cells(mask.tolist()),
        torch.randn(2, 2, 2, 3),
        torch.randn(2, 2, 2, 3),
    )


def test_written_out():
    student = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 1, 2).requires_grad_()
    teacher = torch.tensor([0.0, 2.0, 5.0, 0.0]).view(1, 2, 1, 2)
    mask = torch.tensor([[[True, False]]])
    assert FeatureMSE()(student, teacher).item() == pytest.approx((1 + 0 + 4 + 16) / 4)
    loss = FeatureMSE()(student, teacher, mask=mask)
    loss.backward()
    assert loss.item() == pytest.approx((1 + 4) / 2)
    torch.testing.assert_close(student.grad.flatten(), torch.tensor([1.0, 0.0, -2.0, 0.0]))


def test_weights_leave_the_divisor_alone():
    student, teacher, weight = torch.randn(3, 2), torch.zeros(3, 2), torch.tensor([1.0, 0.0, 2.0])
    squares = (student.square().mean(1) * weight).sum()
    torch.testing.assert_close(FeatureMSE()(student, teacher, weight=weight), squares / 3)
    value = FeatureMSE()(student, teacher, weight=weight, avg_factor=5.0)
    torch.testing.assert_close(value, squares / 5)


def test_equal_is_zero():
    x = torch.randn(2, 3, 4, 4)
    assert FeatureMSE()(x, x).item() == 0
