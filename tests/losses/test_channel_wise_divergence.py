import math

import pytest
import torch

from mmkd.losses import ChannelWiseDivergence


def cwd(mask, tau):
    def cells(plane, keep):
        return [
            math.exp(v / tau)
            for i, row in enumerate(plane)
            for j, v in enumerate(row)
            if keep[i][j] > 0
        ]

    def reference(student, teacher):
        total = 0.0
        for b, image in enumerate(student):
            for c, plane in enumerate(image):
                s, t = cells(plane, mask[b]), cells(teacher[b][c], mask[b])
                for x, y in zip(s, t):
                    total += y / sum(t) * math.log((y / sum(t)) / (x / sum(s)))
        return tau**2 * total / (len(student) * len(student[0]))

    return reference


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_against_python(agrees_with, tau):
    reference = cwd([[[1] * 3] * 2] * 2, tau)
    loss = ChannelWiseDivergence(tau)
    agrees_with(loss, reference, torch.randn(2, 3, 2, 3), 2 * torch.randn(2, 3, 2, 3))


def standardised(mask):
    """Each channel of nested lists with mean 0 and unbiased std 1 over the cells of the mask."""

    def standard(maps):
        out = [[[row[:] for row in plane] for plane in image] for image in maps]
        for c in range(len(maps[0])):
            kept = [
                (b, i, j)
                for b, image in enumerate(maps)
                for i, row in enumerate(image[c])
                for j in range(len(row))
                if mask[b][i][j] > 0
            ]
            values = [maps[b][c][i][j] for b, i, j in kept]
            mean = sum(values) / len(values)
            std = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
            for b, i, j in kept:
                out[b][c][i][j] = (maps[b][c][i][j] - mean) / std
        return out

    return standard


@pytest.mark.parametrize('masked', [False, True])
def test_standardised_against_python(agrees_with, masked):
    mask = [[[1, 0, 1], [0, 1, 1]], [[1, 1, 1], [1, 0, 1]]] if masked else [[[1] * 3] * 2] * 2
    standard, reference = standardised(mask), cwd(mask, 2.0)
    given = torch.tensor(mask).bool() if masked else None
    agrees_with(
        lambda s, t: ChannelWiseDivergence(2.0, standardise=True)(s, t, mask=given),
        lambda s, t: reference(standard(s), standard(t)),
        torch.randn(2, 2, 2, 3),
        3 * torch.randn(2, 2, 2, 3) + 1,
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_standardised_of_large_constant_and_ignored_maps(dtype):
    loss = ChannelWiseDivergence(standardise=True)
    student = (1e4 * torch.randn(2, 3, 4, 4)).to(dtype)
    student[:, 1] = 1e4
    student.requires_grad_()
    teacher = (1e4 * torch.randn(2, 3, 4, 4)).to(dtype)
    masks = [None, torch.ones(2, 4, 4), torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)]
    masks[3][0, 0, 0] = 1  # a single cell has no deviation
    for mask in masks:
        value = loss(student, teacher, mask=mask)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite() and gradient.isfinite().all() and gradient[:, 1].eq(0).all()
        some = mask is None or mask.sum() > 1
        assert (value > 0) == some == bool(gradient.any())


def test_standardised_is_blind_to_scale_and_offset_of_a_channel():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    loss = ChannelWiseDivergence(standardise=True)
    moved = student * torch.tensor([2.0, 0.5, 3.0]).view(1, 3, 1, 1) + torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(loss(moved, teacher), loss(student, teacher))
    assert loss(moved, student).abs() < 1e-6


@pytest.mark.parametrize('single', [False, True])
def test_mask_with_an_empty_image_against_python(agrees_with, single):
    mask = torch.tensor([[[1, 0, 1], [0, 1, 1]], [[0, 0, 0], [0, 0, 0]]])
    given = mask[:, None].bool() if single else mask.bool()
    agrees_with(
        lambda s, t: ChannelWiseDivergence(2.0)(s, t, mask=given),
        cwd(mask.tolist(), 2.0),
        torch.randn(2, 2, 2, 3),
        torch.randn(2, 2, 2, 3),
    )


def test_written_out():
    student = torch.tensor([math.log(3.0), 0.0]).view(1, 1, 1, 2).requires_grad_()
    loss = ChannelWiseDivergence()(student, torch.zeros(1, 1, 1, 2))
    loss.backward()
    assert loss.item() == pytest.approx(0.1438410362)
    torch.testing.assert_close(student.grad.flatten(), torch.tensor([0.25, -0.25]))


def test_blind_to_offset_of_a_channel():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    offset = torch.randn(2, 3, 1, 1)
    loss = ChannelWiseDivergence(2.0)
    torch.testing.assert_close(loss(student + offset, teacher), loss(student, teacher))
    assert loss(student, student).item() == 0
    assert loss(student + offset, student).item() == pytest.approx(0, abs=1e-5)
    assert loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)).item() == pytest.approx(0)


def test_masked_map_equals_the_cropped_map():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    mask = torch.zeros(2, 4, 5)
    mask[:, :3, :2] = 1
    loss = ChannelWiseDivergence()
    torch.testing.assert_close(
        loss(student, teacher, mask=mask), loss(student[:, :, :3, :2], teacher[:, :, :3, :2])
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match=r'expected \[B, C, H, W\], got shape \(2, 3\)'):
        ChannelWiseDivergence()(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match='tau=0 must be a positive'):
        ChannelWiseDivergence(0)
