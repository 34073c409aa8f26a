import math

import pytest
import torch
import torch.nn.functional as F
from plain_maths import batch_norm, cells, conv, masked, mean, randomised, two_levels

from mmkd.losses import ReviewKDLoss
from mmkd.losses.functional import hierarchical_context_loss


def bins(length, count):
    """Where adaptive pooling's bins begin and end."""
    return [
        range(math.floor(k * length / count), math.ceil((k + 1) * length / count))
        for k in range(count)
    ]


def hcl(student, teacher, mask):
    height, width = len(mask[0]), len(mask[0][0])
    sides = [side for side in (4, 2, 1) if side < min(height, width)]
    total, ratio, ratios = 0.0, 1.0, 0.0
    for rows, columns in [
        ([range(i, i + 1) for i in range(height)], [range(j, j + 1) for j in range(width)]),
        *((bins(height, side), bins(width, side)) for side in sides),
    ]:
        above = below = 0.0
        for s, t, m in zip(student, teacher, mask):
            for ys in rows:
                for xs in columns:
                    places = [(i, j) for i in ys for j in xs]
                    share = sum(m[i][j] for i, j in places) / len(places)
                    if share == 0:
                        continue
                    below += share
                    gaps = [
                        sum(m[i][j] * (a[i][j] - b[i][j]) for i, j in places)
                        / sum(m[i][j] for i, j in places)
                        for a, b in zip(s, t)
                    ]
                    above += share * mean(g**2 for g in gaps)
        total += ratio * above / below
        ratios += ratio
        ratio /= 2
    return total / ratios


@pytest.mark.parametrize('size', [(5, 6), (3, 2), (1, 4)])
@pytest.mark.parametrize('with_mask', [False, True])
def test_context_against_python(agrees_with, size, with_mask):
    mask = torch.ones(2, *size)
    if with_mask:
        mask[0, :, -1] = 0
        mask[1, 0, :2] = 0.5
    agrees_with(
        lambda s, t: hierarchical_context_loss(s, t, mask if with_mask else None),
        lambda s, t: hcl(s, t, mask.tolist()),
        torch.randn(2, 2, *size),
        torch.randn(2, 2, *size),
    )


def test_context_written_out():
    # 8 x 8, one cell of 64 differs by 8: squares 1 at full size, (8/4)^2 / 16 = 1/4 of bins of 4
    # cells, (8/16)^2 / 4 = 1/16 of 16 cells, (8/64)^2 = 1/64 of all.
    student = torch.zeros(1, 1, 8, 8)
    student[..., 2, 3] = 8.0
    value = hierarchical_context_loss(student, torch.zeros(1, 1, 8, 8))
    expected = (1 + 1 / 2 * 1 / 4 + 1 / 4 * 1 / 16 + 1 / 8 * 1 / 64) / 1.875
    assert value.item() == pytest.approx(expected)
    x = torch.randn(2, 3, 6, 7)
    assert hierarchical_context_loss(x, x).item() == 0


def test_context_is_the_mean_squared_error_of_pooled_maps():
    student, teacher = torch.randn(2, 3, 9, 12), torch.randn(2, 3, 9, 12)
    total, ratios = F.mse_loss(student, teacher), 1.0
    for ratio, side in ((0.5, 4), (0.25, 2), (0.125, 1)):
        pooled = [F.adaptive_avg_pool2d(x, side) for x in (student, teacher)]
        total, ratios = total + ratio * F.mse_loss(*pooled), ratios + ratio
    torch.testing.assert_close(hierarchical_context_loss(student, teacher), total / ratios)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def review(loss, masks):
    """Of two levels packed in one map: 4 x 4, and 2 x 2 to its right."""

    def reference(student, teacher):
        students, teachers = two_levels(student), two_levels(teacher)
        total, deeper = 0.0, None
        for level in (1, 0):
            fuse, mask = loss.fusions[level], masks[level]
            s, t = (masked(x, mask) for x in (students[level], teachers[level]))
            x = batch_norm(conv(s, fuse.enter), fuse.enter_norm, mask)
            if deeper is not None:
                # every cell below takes the cell above it
                up = [[[[v for v in row for _ in 'ab'] for row in p for _ in 'ab'] for p in image]
                      for image in deeper]  # fmt: skip
                both = [a + b for a, b in zip(x, masked(up, mask))]
                shares = conv(both, fuse.attend)
                for image, other, share, m in zip(x, up, shares, mask):
                    for plane, below in zip(image, other):
                        for i, j in cells(m):
                            plane[i][j] *= sigmoid(share[0][i][j])
                            plane[i][j] += below[i][j] * sigmoid(share[1][i][j])
            deeper = x
            out = batch_norm(conv(x, fuse.leave), fuse.leave_norm, mask)
            total += hcl(out, t, mask)
        return total

    return reference


@pytest.mark.parametrize('with_mask', [False, True])
def test_against_python(agrees_with, with_mask):
    masks = [torch.ones(2, 4, 4), torch.ones(2, 2, 2)]
    if with_mask:
        masks[0][0, :, 2:] = masks[0][1, 3:] = 0
        masks[1][0, :, 1:] = 0
    loss = ReviewKDLoss(width=2)
    student, teacher = torch.randn(2, 2, 4, 6), torch.randn(2, 2, 4, 6)
    loss.prepare(two_levels(student), two_levels(teacher))
    randomised(loss)
    given = dict(mask=masks) if with_mask else {}
    agrees_with(
        lambda s, t: loss.to(s.dtype)(two_levels(s), two_levels(t), **given),
        review(loss, [x.tolist() for x in masks]),
        student,
        teacher,
    )


def test_any_channels_and_a_level_of_one_cell():
    loss = ReviewKDLoss(width=4)
    student = [torch.randn(1, c, n, n, requires_grad=True) for c, n in ((3, 4), (5, 2), (6, 1))]
    teacher = [torch.randn(1, 7, n, n) for n in (4, 2, 1)]
    loss.prepare(student, teacher)
    loss(student, teacher).backward()
    assert all(x.grad.isfinite().all() for x in student)
    # what is deeper helps to match what is shallower
    shallow = loss.fusions[0].leave.weight
    assert shallow.grad.abs().sum() > 0 and student[1].grad.abs().sum() > 0
    assert loss.fusions[2].attend is None


def test_masked_pyramid_equals_the_cropped_one():
    loss = ReviewKDLoss(width=4)
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)]
    loss.prepare(maps, maps)
    # What is fused: a coarse bin of the whole map is not one of the crop.
    deeper = deeper_of_crop = None
    for x, fuse in zip(reversed(maps), reversed(loss.fusions)):
        weight, rows = torch.zeros_like(x[:, :1]), x.shape[-1] // 2
        weight[:, :, :rows] = 1
        fused, deeper = fuse(x * weight, weight, deeper)
        crop = x[:, :, :rows]
        fused_crop, deeper_of_crop = fuse(crop, torch.ones_like(crop[:, :1]), deeper_of_crop)
        torch.testing.assert_close(fused[:, :, :rows], fused_crop)
        assert not fused[:, :, rows:].any()


def test_bad_argument():
    with pytest.raises(ValueError, match='ReviewKDLoss: width=0 must be a positive whole number'):
        ReviewKDLoss(width=0)
