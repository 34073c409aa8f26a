import math
from itertools import zip_longest

import pytest
import torch
from torch import nn

from mmkd.losses import AfDCDLoss
from mmkd.losses.functional.masked_generation import dense_contrast


def made(**settings):
    loss = AfDCDLoss(**settings)
    loss.generate = nn.Identity()
    return loss


def af_dcd(mask, feature_weight, contrast_weight, tau, width, pool, patch):
    """With an identity in place of the block and nothing masked at random."""

    def pooled(image, weights):
        height, breadth = len(weights), len(weights[0])
        cells = {}
        for top in range(0, height, pool):
            for left in range(0, breadth, pool):
                inside = [
                    (i, j)
                    for i in range(top, min(top + pool, height))
                    for j in range(left, min(left + pool, breadth))
                    if weights[i][j] > 0
                ]
                vector = [max(c[i][j] for i, j in inside) for c in image] if inside else None
                weight = max((weights[i][j] for i, j in inside), default=0)
                cells[top // pool, left // pool] = (vector, weight)
        return cells

    def likeness(token, values):
        gaps = [abs(a - b) for a, b in zip_longest(token, values, fillvalue=0.0)]
        return math.exp(-sum(gaps) / tau)

    def reference(student, teacher):
        squares = contrast = 0.0
        for ours, theirs, weights in zip(student, teacher, mask):
            for s, t in zip(ours, theirs):
                for i, row in enumerate(weights):
                    for j, weight in enumerate(row):
                        if weight > 0:
                            squares += weight * (s[i][j] - t[i][j]) ** 2
            mine, other = pooled(ours, weights), pooled(theirs, weights)
            channels = range(0, len(ours), width)
            for (y, x), (vector, weight) in mine.items():
                if vector is None:
                    continue
                near = [
                    v
                    for (i, j), (v, _) in other.items()
                    if v is not None and i // patch == y // patch and j // patch == x // patch
                ]
                for begin in channels:
                    token = vector[begin : begin + width]
                    own = other[y, x][0][begin : begin + width]
                    positive = likeness(token, own)
                    negative = sum(
                        likeness(token, v[first : first + width])
                        for v in near
                        for first in channels
                        if first != begin
                    )
                    contrast -= weight * math.log(positive / (positive + negative)) / len(mine)
        return (feature_weight * squares + contrast_weight * contrast) / len(student)

    return reference


@pytest.mark.parametrize('shape', [(2, 4, 4, 4), (1, 3, 3, 5), (1, 5, 2, 3)])
def test_against_python(agrees_with, shape):
    settings = dict(feature_weight=0.5, contrast_weight=0.3, tau=2.0, pool=2, patch=2)
    width = math.ceil(shape[1] / 2)
    mask = [[[1] * shape[3]] * shape[2]] * shape[0]
    agrees_with(
        made(groups=2, **settings), af_dcd(mask, width=width, **settings), torch.randn(shape),
        torch.randn(shape),
    )  # fmt: skip


def test_mask_against_python(agrees_with):
    settings = dict(feature_weight=0.5, contrast_weight=0.3, tau=2.0, pool=2, patch=2)
    mask = torch.rand(2, 4, 6, dtype=torch.float64) + 0.1
    mask[0, :2, :2] = mask[0, 3] = 0
    mask[1, 0, 1] = 0
    loss = made(groups=2, **settings)
    agrees_with(
        lambda s, t: loss(s, t, mask=mask), af_dcd(mask.tolist(), width=1, **settings),
        torch.randn(2, 2, 4, 6), torch.randn(2, 2, 4, 6),
    )  # fmt: skip


def test_written_out():
    # One cell, two groups of one channel. Student (0, 1), teacher (0, 3): distances to the own
    # group 0 and 2, to the other 3 and 1; squares 0 + 4.
    student = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    teacher = torch.tensor([0.0, 3.0]).view(1, 2, 1, 1)
    value = made(feature_weight=1.0, contrast_weight=1.0, tau=1.0)(student, teacher)
    rows = math.log(1 + math.exp(-3)) + math.log(1 + math.exp(1))
    assert value.item() == pytest.approx(4 + rows)


def test_padding_leaves_the_rest_alone():
    """Of a map of one patch and a bit, the patch's tokens count what they count alone."""
    student, teacher = torch.randn(1, 4, 4, 5), torch.randn(1, 4, 4, 5)
    parts = [
        dense_contrast(student[..., a:b], teacher[..., a:b], torch.ones(1, 1, 4, b - a), pool=1)
        for a, b in ((0, 4), (4, 5))
    ]
    whole = dense_contrast(student, teacher, torch.ones(1, 1, 4, 5), pool=1)
    torch.testing.assert_close(whole, (16 * parts[0] + 4 * parts[1]) / 20)


def test_the_block_makes_up_for_what_it_does_not_see():
    loss = AfDCDLoss(feature_weight=1.0, contrast_weight=0.0)
    seen = []
    student, teacher = torch.ones(4, 6, 40, 40), torch.randn(4, 6, 40, 40)
    loss.prepare(student, teacher)
    loss.generate.convs.register_forward_hook(lambda module, args, out: seen.append((*args, out)))
    value = loss(student, teacher)
    ((kept, out),) = seen
    assert 0.22 < kept.mean() < 0.28  # a quarter is left
    torch.testing.assert_close(value, (out - teacher).square().sum() / 4)


def test_bad_arguments():
    for name in ('tau', 'groups', 'pool', 'patch'):
        with pytest.raises(ValueError, match=f'{name}=0 must be a positive'):
            AfDCDLoss(**{name: 0})
    with pytest.raises(ValueError, match=r'mask_ratio=1\.0'):
        AfDCDLoss(mask_ratio=1.0)
