import math

import pytest
import torch
from plain_maths import attentions, batch_norm, cells, conv, linear, masked, mean, randomised

from mmkd.losses import FBKDLoss
from mmkd.losses.non_local import NonLocal

RATIOS = dict(tau=0.5, alpha=0.3, beta=0.2, gamma=0.7)


def prepared(ours, theirs, **arguments):
    loss = FBKDLoss(**arguments)
    loss.prepare([torch.zeros(1, ours, 1, 1)], [torch.zeros(1, theirs, 1, 1)])
    return loss


def non_local(x, block, mask):
    query, key, value = (conv(x, layer) for layer in (block.query, block.key, block.value))
    related = []
    for q, k, v, m in zip(query, key, value, mask):
        own, groups = cells(m), {}
        for i, j in own:
            groups.setdefault((i // block.pool, j // block.pool), []).append((i, j))
        keys = [[max(plane[i][j] for i, j in g) for plane in k] for g in groups.values()]
        vals = [[max(plane[i][j] for i, j in g) for plane in v] for g in groups.values()]
        planes = [[[0.0] * len(m[0]) for _ in m] for _ in v]
        for i, j in own:
            for a, b in zip(keys, vals):
                product = sum(plane[i][j] * n for plane, n in zip(q, a)) / len(keys)
                for plane, n in zip(planes, b):
                    plane[i][j] += product * n
        related.append(planes)
    added = batch_norm(conv(related, block.out), block.norm, mask)
    return combine(lambda a, b: a + b, x, added)


def combine(f, *nested):
    if isinstance(nested[0], list):
        return [combine(f, *inner) for inner in zip(*nested)]
    return f(*nested)


def fbkd(loss, fixed, mask):
    blocks = loss.blocks[0]

    def reference(student, teacher):
        student, teacher = masked(student, mask), masked(teacher, mask)
        adapted, start = conv(student, blocks['adapt']), conv(fixed, blocks['adapt'])
        flat = [[[[mean(v) for v in zip(*rows)] for rows in zip(*image)]] for image in student]
        drawn = conv(flat, blocks['spatial'])
        ours = conv(non_local(student, blocks['student_relation'], mask), blocks['relation'])
        theirs = non_local(teacher, blocks['teacher_relation'], mask)
        sums = dict(features=0.0, channel=0.0, spatial=0.0, relation=0.0)
        for b, m in enumerate(mask):
            own = cells(m)
            if not own:
                continue
            # attentions have no gradient: they stay those of the map that is not moved
            (space_s, depth_s), (space_t, depth_t) = (
                attentions(x[b], own, 0.5) for x in (start, teacher)
            )
            channels = range(len(teacher[b]))
            for n, (i, j) in enumerate(own):
                for c in channels:
                    factor = (space_s[n] + space_t[n]) / 2 * (depth_s[c] + depth_t[c]) / 2
                    gap = teacher[b][c][i][j] - adapted[b][c][i][j]
                    sums['features'] += factor * gap**2
                    sums['relation'] += (theirs[b][c][i][j] - ours[b][c][i][j]) ** 2
                target = mean(teacher[b][c][i][j] for c in channels)
                sums['spatial'] += (target - drawn[b][0][i][j]) ** 2
            pooled = [mean(plane[i][j] for i, j in own) for plane in student[b]]
            pooled = linear(pooled, blocks['channel'])
            for c in channels:
                sums['channel'] += (mean(teacher[b][c][i][j] for i, j in own) - pooled[c]) ** 2
        norms = {name: math.sqrt(value) for name, value in sums.items()}
        pooled = norms['channel'] + norms['spatial']
        return 0.3 * norms['features'] + 0.2 * pooled + 0.7 * norms['relation']

    return reference


@pytest.mark.parametrize('with_mask', [False, True])
def test_against_python(agrees_with, with_mask):
    mask = torch.ones(2, 3, 3)
    if with_mask:
        mask[0, :, 2] = mask[1] = 0
    loss = randomised(prepared(2, 3, pool=(2,), reduction=(1,), **RATIOS))
    student = torch.randn(2, 2, 3, 3)
    given = dict(mask=[mask[:, None]]) if with_mask else {}
    fixed = masked(student.double().tolist(), mask.tolist())
    agrees_with(
        lambda s, t: loss.to(s.dtype)([s], [t], **given),
        fbkd(loss, fixed, mask.tolist()),
        student,
        torch.randn(2, 3, 3, 3),
    )


def test_written_out():
    loss = prepared(1, 1, tau=1.0, alpha=1.0, beta=10.0, gamma=100.0)
    blocks = loss.blocks[0]
    for name in ('adapt', 'channel', 'relation'):
        torch.nn.init.ones_(blocks[name].weight)
        torch.nn.init.zeros_(blocks[name].bias)
    blocks['spatial'].weight.data = torch.tensor([[[[0, 0, 0], [0, 1.0, 0], [0, 0, 0]]]])
    torch.nn.init.zeros_(blocks['spatial'].bias)
    # uniform attention; four cells differ by 3, their means by 3, the blocks begin as identities
    value = loss([torch.full((1, 1, 2, 2), 2.0)], [torch.full((1, 1, 2, 2), 5.0)])
    assert value.item() == pytest.approx(6 + 10 * (3 + 6) + 100 * 6)
    assert loss([torch.ones(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2)]).item() == 0


def test_no_slope_where_nothing_differs():
    loss, x = prepared(1, 1), torch.ones(1, 1, 2, 2, requires_grad=True)
    for block in ('adapt', 'channel', 'relation', 'spatial'):
        for parameter in loss.blocks[0][block].parameters():
            torch.nn.init.zeros_(parameter)
    value = loss([x], [torch.zeros(1, 1, 2, 2)])
    value.backward()
    assert value.item() == 0 and torch.equal(x.grad, torch.zeros(1, 1, 2, 2))


def test_non_local_is_the_matrix_of_cells_by_cells():
    block = randomised(NonLocal(4, 2, pool=2)).double()
    x = torch.randn(2, 4, 4, 6, dtype=torch.float64)
    pooled = [torch.nn.functional.max_pool2d(f(x), 2).flatten(2) for f in (block.key, block.value)]
    pairs = block.query(x).flatten(2).transpose(1, 2) @ pooled[0] / 6
    related = (pairs @ pooled[1].transpose(1, 2)).transpose(1, 2).view(2, 2, 4, 6)
    expected = torch.nn.functional.batch_norm(
        block.out(related), None, None, block.norm.weight.flatten(),
        block.norm.bias.flatten(), training=True,
    )  # fmt: skip
    torch.testing.assert_close(block(x, torch.ones(2, 1, 4, 6).double()), x + expected)


def test_maps_smaller_than_a_pool():
    block = randomised(NonLocal(4, 2, pool=8))
    x = torch.randn(2, 4, 3, 1)
    out = block(x, torch.ones(2, 1, 3, 1))
    assert out.shape == x.shape and out.isfinite().all()


def test_masked_map_equals_the_cropped_map():
    loss = randomised(prepared(3, 4, pool=(2,), **RATIOS))
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 4, 4, 6)
    mask = torch.zeros(2, 4, 6)
    mask[:, :3, :4] = 1
    torch.testing.assert_close(
        loss([student], [teacher], mask=[mask]),
        loss([student[:, :, :3, :4]], [teacher[:, :, :3, :4]]),
    )


def test_levels_are_summed_and_each_has_its_own_blocks():
    loss = FBKDLoss(pool=(8, 4), reduction=(4,))
    maps = [torch.randn(1, 8, side, side) for side in (8, 4, 2)]
    loss.prepare(maps, maps)
    assert [blocks['student_relation'].pool for blocks in loss.blocks] == [8, 4, 4]
    assert all(blocks['student_relation'].query.out_channels == 2 for blocks in loss.blocks)
    teacher = [torch.randn_like(x) for x in maps]
    single = 0.0
    for blocks, x, y in zip(loss.blocks, maps, teacher):
        alone = FBKDLoss()
        alone.blocks = torch.nn.ModuleList([blocks])
        single = single + alone([x], [y])
    torch.testing.assert_close(loss(maps, teacher), single)


@pytest.mark.parametrize('bad', [dict(tau=0), dict(pool=()), dict(reduction=(4, 0))])
def test_bad_argument(bad):
    with pytest.raises(ValueError, match=f'FBKDLoss: {next(iter(bad))}=.* must be a positive'):
        FBKDLoss(**bad)
