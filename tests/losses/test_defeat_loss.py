import pytest
import torch
from plain_maths import cells, conv, masked, mean, randomised, two_levels

from mmkd.losses import DeFeatLoss
from mmkd.losses.functional import boxes_by_level

BOXES = [[[0.0, 0.0, 9.0, 8.0], [8.0, 8.0, 30.0, 31.0]], []]  # areas of sides 8.5 and 22.5


def defeat(loss, inside, masks):
    def reference(student, teacher):
        total = 0.0
        for s, t, convs, own, mask in zip(
            two_levels(student), two_levels(teacher), loss.adapt, inside, masks
        ):
            gaps = {True: [], False: []}
            made, other = conv(masked(s, mask), convs), masked(t, mask)
            for b, m in enumerate(mask):
                for i, j in cells(m):
                    gaps[(b, i, j) in own] += [
                        (p[i][j] - q[i][j]) ** 2 for p, q in zip(made[b], other[b])
                    ]
            for here, ratio in ((True, 3.0), (False, 12.0)):
                total += ratio * mean(gaps[here]) / 2 if gaps[here] else 0.0
        return total / 2

    return reference


@pytest.mark.parametrize('with_mask', [False, True])
def test_against_python(agrees_with, with_mask):
    # 8 pixels a cell, and 16: the small box is on the first level, the large one on the second.
    inside = [{(0, 0, 0)}, {(0, 0, 0)}]
    masks = [torch.ones(2, 4, 4), torch.ones(2, 2, 2)]
    if with_mask:
        masks[0][0, :, 3] = masks[0][1] = 0
        masks[1][0, 0, 0] = masks[1][1, 1] = 0
    loss = DeFeatLoss(finest_scale=10.0)
    student, teacher = torch.randn(2, 2, 4, 6), torch.randn(2, 3, 4, 6)
    loss.prepare(two_levels(student), two_levels(teacher))
    randomised(loss)
    given = dict(mask=[x[:, None] for x in masks]) if with_mask else {}
    context = dict(boxes=[torch.tensor(x).reshape(-1, 4) for x in BOXES], canvas=(32, 32))
    agrees_with(
        lambda s, t: loss.to(s.dtype)(two_levels(s), two_levels(t), **given, **context),
        defeat(loss, inside, [x.tolist() for x in masks]),
        student,
        teacher,
    )


def test_each_box_is_on_one_level():
    sides = torch.tensor([1.0, 55.0, 56.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 5000.0])
    boxes = torch.cat([torch.zeros(10, 2), sides[:, None].expand(10, 2)], 1)
    levels = boxes_by_level([boxes, boxes[:0]], 4)
    found = [own[0][:, 2].tolist() for own in levels]
    assert found == [[1, 55, 56, 111], [112, 223], [224, 447], [448, 5000]]
    assert all(len(own[1]) == 0 for own in levels)


def test_equal_maps_teach_nothing_and_the_levels_are_averaged():
    loss = DeFeatLoss()
    x = [torch.randn(1, 2, 4, 4), torch.randn(1, 2, 2, 2)]
    loss.prepare(x, x)
    for layer in loss.adapt:
        torch.nn.init.dirac_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    context = dict(boxes=[torch.tensor([[0.0, 0.0, 9.0, 9.0]])], canvas=(32, 32))
    assert loss(x, x, **context).item() == 0
    # Off by 2 everywhere: half of 4, on the first level inside and outside, on the second outside.
    value = loss([y + 2 for y in x], x, **context)
    padding = loss(
        [torch.zeros_like(y) + 2 for y in x], [torch.zeros_like(y) for y in x], **context
    )
    torch.testing.assert_close(value, padding)
    assert value.item() == pytest.approx((3 * 2 + 12 * 2 + 12 * 2) / 2)


def test_a_box_has_a_cell_at_least():
    loss = DeFeatLoss(foreground=1.0, background=0.0)
    x = [torch.ones(1, 1, 4, 4)]
    loss.prepare(x, x)
    context = dict(boxes=[torch.tensor([[9.0, 17.0, 10.0, 18.0]])], canvas=(32, 32))
    torch.nn.init.zeros_(loss.adapt[0].weight)
    torch.nn.init.zeros_(loss.adapt[0].bias)
    target = torch.zeros(1, 1, 4, 4)
    target[..., 2, 1] = 4.0
    assert loss(x, [target], **context).item() == pytest.approx(8.0)


def test_convolutions_begin_small():
    loss = DeFeatLoss()
    x = [torch.zeros(1, 16, 1, 1)]
    loss.prepare(x, x)
    weight = loss.adapt[0].weight
    assert 0.5e-4 < weight.std() < 1.1e-4 and weight.abs().max() <= 2e-4


def test_bad_argument():
    with pytest.raises(ValueError, match='DeFeatLoss: finest_scale=0 must be a positive'):
        DeFeatLoss(finest_scale=0)
