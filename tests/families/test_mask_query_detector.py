"""Vanilla KD of mmdet's Mask2Former and MaskFormer, panoptic and of instances."""

import itertools
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from toys import (
    ANIMALS,
    detector,
    distil,
    lively,
    norms_in_eval,
    plain,
    random_teacher,
    save,
    seg_batch,
    segmentor,
    total,
)
from toys_mask_query import mask_batch, mask_detector, mask_segmentor

from mmkd.distillers.classes import ClassMatch
from mmkd.families.mask_query_matching import QueryMatching

CLASSES = ANIMALS[:3]


class Lesson:
    """A step of which only valid cells are asked."""

    def __init__(self, valid=None):
        self.valid = valid

    def valid_cells(self, size):
        return self.valid


def soften(logits):
    exps = [math.exp(z) for z in logits]
    return [e / sum(exps) for e in exps]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def parts(student, teacher):
    """Class KL, mask KL and dice of two queries, whose masks are one number all over 10 points."""
    s, t = soften(student[0]), soften(teacher[0])
    a, b = sigmoid(student[1]), sigmoid(teacher[1])
    return (
        sum(y * math.log(y / x) for x, y in zip(s, t)),
        b * math.log(b / a) + (1 - b) * math.log((1 - b) / (1 - a)),
        1 - (2 * 10 * a * b + 1) / (10 * (a * a + b * b) + 1),
    )


@pytest.mark.parametrize('queries', [(3, 3), (4, 3), (2, 4)])
def test_values_against_loops_over_all_pairings(queries):
    torch.manual_seed(1)
    ours, theirs = ([(torch.randn(3).tolist(), torch.randn(()).item()) for _ in range(n)]
                    for n in queries)  # fmt: skip
    theirs[0][0][2] += 9.0  # of no object
    score = [max(soften(c)[:2]) for c, _ in theirs]
    kept = sorted(range(queries[1]), key=lambda t: -score[t])[: queries[0]]

    def cost(s, t):
        cls, binary, dice = parts(ours[s], theirs[t])
        return 2 * cls + score[t] * 5 * (binary + dice)

    best = min(
        itertools.permutations(range(queries[0]), len(kept)),
        key=lambda rows: sum(cost(s, t) for s, t in zip(rows, kept)),
    )
    cls = mask = dice = classes_total = 0.0
    total_score = max(sum(score[t] for t in kept), 1.0)
    for s, t in zip(best, kept):
        values = parts(ours[s], theirs[t])
        weight = 0.1 if max(range(3), key=theirs[t][0].__getitem__) == 2 else 1.0
        cls += weight * values[0]
        classes_total += weight
        mask += score[t] * values[1] / total_score
        dice += score[t] * values[2] / total_score
    expected = dict(
        loss_cls=2 * cls / classes_total, loss_mask=5 * mask, loss_dice=5 * dice
    )  # fmt: skip

    def as_outputs(said):
        classes = torch.tensor([[c for c, _ in said]])
        masks = torch.tensor([[m for _, m in said]])[..., None, None].expand(-1, -1, 4, 4)
        return dict(query=[classes], mask=[masks])

    criterion = QueryMatching((-1,), 10, {})
    got = criterion(as_outputs(ours), as_outputs(theirs), ClassMatch(), Lesson())
    assert {name: x.item() for name, x in got.items()} == pytest.approx(expected, rel=1e-4)


def test_points_fall_evenly_into_valid_cells_alone():
    valid = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    valid[0, 0, 1, 2:] = True
    points, some = QueryMatching((-1,), 4000, {})._draw(Lesson(valid), torch.zeros(2, 3, 4, 4))
    assert some.tolist() == [[1.0], [0.0]]
    x, y = points[0].unbind(-1)
    assert (y >= 0.25).all() and (y < 0.5).all() and (x >= 0.5).all() and (x < 1).all()
    for third in range(4):  # each quarter of the two cells gets about a quarter of them
        share = ((x >= 0.5 + third / 8) & (x < 0.625 + third / 8)).float().mean()
        assert share.item() == pytest.approx(0.25, abs=0.03)


def one_or_half(images):
    """Class and mask logits of four images, masks of one number each; the last sees nothing."""
    generator = torch.Generator().manual_seed(3)
    ours, theirs = (
        dict(
            query=[torch.randn(4, 5, 3, generator=generator)[images]],
            mask=[torch.randn(4, 5, 1, 1, generator=generator)[images].expand(-1, -1, 4, 4)],
        )
        for _ in range(2)
    )
    valid = torch.ones(4, 1, 4, 4, dtype=torch.bool)
    valid[3] = False
    leaf = ours['query'][0].clone().requires_grad_()
    masks = ours['mask'][0].clone().requires_grad_()
    losses = QueryMatching((-1,), 50, {})(
        dict(query=[leaf], mask=[masks]), theirs, ClassMatch(), Lesson(valid[images])
    )
    sum(losses.values()).backward()
    return leaf.grad, masks.grad.sum((2, 3))  # points differ, a mask's sum does not


def on_rank(rank, store, results):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    torch.save(one_or_half(slice(2 * rank, 2 * rank + 2)), f'{results}/{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_match_like_one(tmp_path):
    mp.spawn(on_rank, args=(str(tmp_path / 'store'), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1)]
    for halves, whole in zip(zip(*ranks), one_or_half(slice(None))):
        # DDP divides the sum of the ranks' gradients by their number
        torch.testing.assert_close(torch.cat(halves) / 2, whole, rtol=1e-5, atol=1e-6)
        assert whole[:3].abs().sum() > 0 and whole[3].eq(0).all()


def taught(student, teacher, folder, classes=CLASSES, **kd):
    path = save(lively(plain(teacher), seed=1), folder / 'teacher.pth')
    return distil(
        student, classes, terms=dict(kd=dict(type='LogitKD', **kd)),
        teacher=dict(config=teacher, checkpoint=path, classes='same'),
    )  # fmt: skip


@pytest.mark.parametrize(
    'kind, stuff', [('Mask2FormerHead', 1), ('Mask2FormerHead', 0), ('MaskFormerHead', 1)]
)
def test_a_step_and_a_prediction_in_stock_code(kind, stuff, tmp_path):
    shape = dict(things=3 - stuff, stuff=stuff)
    student = mask_detector(kind, **shape)
    model = taught(student, mask_detector(kind, width=16, queries=9, **shape), tmp_path)
    inputs, samples = mask_batch(model)
    losses = model.loss(inputs, samples)
    ours = {name: x for name, x in losses.items() if name.startswith('kd.')}
    assert list(ours) == ['kd.loss_cls', 'kd.loss_mask', 'kd.loss_dice']
    assert all(x.isfinite() and x > 0 for x in ours.values())
    total(ours).backward()
    for weight in (model.panoptic_head.mask_embed[0].weight, model.backbone.conv1.weight):
        assert weight.grad.isfinite().all() and weight.grad.abs().sum() > 0
    stock = plain(student).eval()
    stock.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        said = [
            m.panoptic_head.predict(m.extract_feat(inputs), samples) for m in (model.eval(), stock)
        ]
        assert len(model.predict(inputs, samples)) == 2
    for ours, theirs in zip(*said):
        assert torch.equal(ours, theirs) and ours.abs().sum() > 0


def test_a_student_that_is_its_teacher_has_no_loss(tmp_path):
    cfg = mask_detector()
    path = save(lively(plain(cfg)), tmp_path / 'same.pth')
    model = distil(
        cfg, CLASSES, student_checkpoint=path, terms=dict(kd=dict(type='LogitKD')),
        teacher=dict(config=cfg, checkpoint=path, classes='same'),
    )  # fmt: skip
    losses = norms_in_eval(model).loss(*mask_batch(model))
    assert all(abs(x.item()) < 1e-5 for name, x in losses.items() if name.startswith('kd.'))


def test_instances_of_one_class_are_matched(tmp_path):
    cfg = mask_detector(things=1, stuff=0)
    model = taught(cfg, cfg, tmp_path, CLASSES[:1])
    inputs, samples = mask_batch(model)
    for sample in samples:
        sample.gt_instances.labels.zero_()
        del sample.gt_sem_seg
    losses = model.loss(inputs, samples)
    assert all(losses[f'kd.loss_{name}'] > 0 for name in ('cls', 'mask', 'dice'))


@pytest.mark.parametrize('matching', [None, 'hungarian'])
def test_void_pixels_teach_nothing(matching, tmp_path):
    model = norms_in_eval(taught(mask_detector(), mask_detector(width=16), tmp_path,
                                 matching=matching))  # fmt: skip
    inputs, samples = mask_batch(model)
    samples[0].gt_sem_seg.sem_seg[:] = 255
    samples[1].gt_sem_seg.sem_seg[:, 32:] = 255
    masks = []
    model.panoptic_head.register_forward_hook(lambda m, a, out: masks.append(out[1][-1]))
    losses = model.loss(inputs, samples)
    ours = sum(x for name, x in losses.items() if name.startswith('kd.'))
    gradient = torch.autograd.grad(ours, masks[0])[0]
    assert gradient[0].eq(0).all() and gradient[1, :, 9:].eq(0).all()
    assert gradient[1, :, :8].abs().sum() > 0


def test_panoptic_and_semantic_models_teach_each_other(tmp_path):
    panoptic, semantic = mask_detector(), mask_segmentor(classes=3)
    pairs = [
        (panoptic, dict(semantic), mask_batch),  # matched, as both have queries
        (panoptic, segmentor(classes=3), mask_batch),
        (segmentor(classes=3), panoptic, seg_batch),
        (semantic, panoptic, seg_batch),
    ]
    names = []
    for index, (student, teacher, batch) in enumerate(pairs):
        model = taught(student, teacher, tmp_path)
        keys = {} if batch is mask_batch else dict(classes=3)
        losses = model.loss(*batch(model, **keys))
        ours = {name: x for name, x in losses.items() if name.startswith('kd.')}
        assert all(x.isfinite() and x > 0 for x in ours.values()), index
        total(ours).backward()
        assert model.backbone.conv1.weight.grad.abs().sum() > 0
        names.append(list(ours))
    assert names == [
        ['kd.loss_cls', 'kd.loss_mask', 'kd.loss_dice'], *[['kd.loss_seg']] * 3
    ]  # fmt: skip


@pytest.mark.parametrize(
    'student, teacher, keys, message',
    [
        (mask_detector(), detector(), {}, 'the student predicts masks, the teacher RetinaNet does'),
        (detector(), mask_detector(), {}, 'Mask2Former'),
        (
            mask_detector(), segmentor(classes=3), dict(loss_seg=dict(type='DKDLoss')),
            'DKDLoss asks for label',
        ),
        (
            mask_detector(), segmentor(classes=3), dict(matching='hungarian'),
            "matching='hungarian' needs a teacher whose queries predict masks, which EncoderDecod",
        ),
        (mask_detector(), mask_detector(), dict(loss_seg=None), 'loss_cls, loss_dice, loss_mask'),
        (
            mask_detector(things=1, stuff=0), mask_detector(things=1, stuff=0),
            dict(matching=None), "has one class, .*; write matching='hungarian'",
        ),
    ],
)  # fmt: skip
def test_pairs_that_do_not_compare(student, teacher, keys, message):
    with pytest.raises(ValueError, match=f"term 'kd': .*{message}") as error:
        distil(
            student, CLASSES, terms=dict(kd=dict(type='LogitKD', **keys)),
            teacher=random_teacher(teacher),
        )  # fmt: skip
    assert '\n' not in str(error.value)
