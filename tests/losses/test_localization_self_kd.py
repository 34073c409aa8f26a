import math

import pytest
import torch
from mmdet.models.dense_heads import GFLHead
from toys import det_batch, detector, distil, lively, random_teacher

from mmkd.losses import KLDivergence, LDLoss, LocalizationSelfKD

MATCHED = torch.tensor([True, False, False, True, False])
WEIGHT = torch.tensor([0.9, 0.1, 0.0, 0.6, 0.3], dtype=torch.float64)


def side(student, teacher, tau):
    s = [math.exp(z / tau) for z in student]
    t = [math.exp(z / tau) for z in teacher]
    return tau**2 * sum(b / sum(t) * math.log((b / sum(t)) / (a / sum(s))) for a, b in zip(s, t))


def go_lsd(student, teacher, rows, tau=5.0):
    """As D-FINE writes it: two means, weighted by the roots of what they are means of."""
    groups = {True: [], False: []}
    for index in rows:
        value = WEIGHT[index].item() * side(student[index], teacher[index], tau)
        groups[MATCHED[index].item()].append(value)
    total = roots = 0.0
    for values in groups.values():
        if values:
            root = math.sqrt(len(values))
            total += root * sum(values) / len(values)
            roots += root
    return total / roots


@pytest.mark.parametrize('rows', [(0, 1, 2, 3, 4), (0, 3), (1, 2, 4), (0, 1, 4)])
def test_against_python(agrees_with, rows):
    mask = torch.zeros(5, dtype=torch.bool)
    mask[list(rows)] = True
    loss = LocalizationSelfKD()
    agrees_with(
        lambda s, t: loss(s, t, mask, WEIGHT, MATCHED),
        lambda s, t: go_lsd(s, t, rows),
        torch.randn(5, 4),
        3 * torch.randn(5, 4),
    )


def test_one_group_is_ld():
    student, teacher, weight = torch.randn(6, 9), torch.randn(6, 9), torch.rand(6)
    ours = LocalizationSelfKD(tau=3.0)(student, teacher, weight=weight)
    torch.testing.assert_close(ours, LDLoss(tau=3.0)(student, teacher, weight=weight))
    same = torch.ones(6, dtype=torch.bool)
    torch.testing.assert_close(
        LocalizationSelfKD()(student, teacher, matched=same), KLDivergence(5.0)(student, teacher)
    )
    assert LocalizationSelfKD()(student, student, matched=student[:, 0] > 0).item() == 0


def test_written_out():
    """One matched row of KL 0.1438410 and four unmatched of 0: 1 * 0.1438410 / (1 + 2)."""
    student = torch.zeros(5, 2)
    student[0, 0] = math.log(3.0)
    matched = torch.tensor([1, 0, 0, 0, 0])
    value = LocalizationSelfKD(tau=1.0)(student, torch.zeros(5, 2), matched=matched)
    assert value.item() == pytest.approx(0.1438410362 / 3)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r'expected \[M, bins\], got shape \(2, 4, 9\)'):
        LocalizationSelfKD()(torch.zeros(2, 4, 9), torch.zeros(2, 4, 9))
    with pytest.raises(ValueError, match='tau=0 must be'):
        LocalizationSelfKD(0)
    with pytest.raises(ValueError, match=r'shape \(3,\) does not fit .*\(5, 2\)'):
        LocalizationSelfKD()(torch.zeros(5, 2), torch.zeros(5, 2), matched=torch.zeros(3))


def bins_of(head, maps):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, head.reg_max + 1) for x in maps])


def test_the_last_bins_of_a_gfl_teach_those_of_its_exits(monkeypatch):
    stock, assigned = GFLHead.get_targets, []

    def get_targets(*args, **kwargs):
        assigned.append(stock(*args, **kwargs))
        return assigned[-1]

    monkeypatch.setattr(GFLHead, 'get_targets', get_targets)
    exits = dict(e=dict(type='DenseExit', tap='backbone[1:]', gt=1.0, kd=0.0))
    model = lively(distil(detector('gfl'), exits=exits))
    part, maps, lessons = model.distillation.parts[0], [], []
    part.branch.register_forward_hook(lambda m, a, out: maps.append(out[1]))
    part.register_forward_pre_hook(lambda m, a: lessons.append(a[0]))
    model.loss(*det_batch(model))
    own = lessons[0].student.predictions
    early, last = (bins_of(model.bbox_head, x) for x in (maps[0], own.outputs['box']))
    # labels of the main head, level by level [B, cells]; bins are in the order of the maps
    matched = torch.cat([(x < model.bbox_head.num_classes).flatten() for x in assigned[0][1]])
    score = scores_of(own.outputs['cls'])
    assert 0 < matched.sum() < len(matched) and len(early) == 4 * len(matched)
    value = LocalizationSelfKD()(
        early, last, matched=matched.repeat_interleave(4), weight=score.repeat_interleave(4)
    )
    to_exit, to_head = torch.autograd.grad(
        value, [part.branch.gfl_reg.weight, model.bbox_head.gfl_reg.weight], allow_unused=True
    )
    assert to_exit.abs().sum() > 0 and to_head is None


def scores_of(maps):
    return torch.cat([x.amax(1).flatten().sigmoid() for x in maps])


def test_in_place_of_the_bin_loss_of_a_term():
    terms = dict(kd=dict(type='LogitKD', loss_dfl=dict(type='LocalizationSelfKD', tau=2.0)))
    model = distil(detector('gfl'), teacher=random_teacher(detector('gfl', width=16)), terms=terms)
    lively(model.distillation.teachers[None].model, 1)
    value = model.loss(*det_batch(model))['kd.loss_dfl']
    assert value.isfinite() and value > 0
