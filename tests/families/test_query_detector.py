"""Vanilla KD of query-based detectors: matching, values, other shapes, and what is refused."""

import itertools

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.registry import MODELS, init_default_scope
from torch.nn.functional import logsigmoid
from toys import (
    ANIMALS,
    det_batch,
    detector,
    distil,
    lively,
    plain,
    query_detector,
    random_teacher,
    save,
    total,
)

from mmkd.families import find_family
from mmkd.families.query_criterion import QueryCriterion
from mmkd.families.query_detector import QueryDetector
from mmkd.terms.tap import Capture, Tap
from mmkd.testing import toy_config, train, write_toy_data

KINDS = ('detr', 'conditional', 'dab', 'deformable', 'dino')
NAMES = ('loss_cls', 'loss_bbox', 'loss_iou')
HEAD = Tap.parse('bbox_head')


def taught(tmp_path, student, teacher, classes=ANIMALS[:3], names='same', seeds=(1, 2), **losses):
    path = save(lively(plain(teacher), seeds[0]), tmp_path / 'teacher.pth')
    model = distil(
        student, classes, teacher=dict(config=teacher, checkpoint=path, classes=names),
        terms=dict(kd=dict(type='LogitKD', **losses)),
    )  # fmt: skip
    return lively(model, seeds[1])


def step(model, batch):
    """The term's losses, and the student's class logits and boxes of all layers and queries."""
    capture = Capture(model, [HEAD], 'student')
    with capture:
        losses = model.loss(*batch)
    kd = {name[3:]: value for name, value in losses.items() if name.startswith('kd.')}
    assert tuple(kd) == NAMES
    return kd, capture.calls(HEAD)[0]


def teachers_say(model, batch):
    """The teacher's class logits and boxes of all layers, by stock code."""
    teacher, (inputs, samples) = model.distillation.teachers[None].model, batch
    with torch.no_grad():
        return teacher.bbox_head(
            **teacher.forward_transformer(teacher.extract_feat(inputs), samples)
        )


@pytest.mark.parametrize('kind', KINDS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind, tmp_path):
    path = save(lively(plain(query_detector(kind)), 2), tmp_path / 'teacher.pth')
    model = distil(
        query_detector(kind), ANIMALS[:3], student_checkpoint=path,
        teacher=dict(config=query_detector(kind), checkpoint=path, classes='same'),
        terms=dict(kd=dict(type='LogitKD'), own=dict(type='LogitKD', matching='queries')),
    )  # fmt: skip
    batch, teacher = det_batch(model), model.distillation.teachers[None].model
    names = [f'{term}.{name}' for term in ('kd', 'own') for name in NAMES]
    losses = model.loss(*batch)
    assert all(abs(losses[name]) < 1e-4 for name in names), losses
    with torch.no_grad():
        for name, x in teacher.named_parameters():
            if 'decoder' in name and x.dim() > 1:
                x.neg_()
    losses = model.loss(*batch)
    assert all(losses[name] > 1e-2 for name in names), losses


def corners(box):
    x, y, w, h = box.unbind(-1)
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def giou(a, b):
    (ax, ay, aX, aY), (bx, by, bX, bY) = corners(a), corners(b)
    inter = (torch.minimum(aX, bX) - torch.maximum(ax, bx)).clamp(min=0)
    inter = inter * (torch.minimum(aY, bY) - torch.maximum(ay, by)).clamp(min=0)
    union = (aX - ax) * (aY - ay) + (bX - bx) * (bY - by) - inter
    whole = (torch.maximum(aX, bX) - torch.minimum(ax, bx)) * (
        torch.maximum(aY, bY) - torch.minimum(ay, by)
    )
    return inter / union - (whole - union) / whole


def bce(z, target):
    return -(target * logsigmoid(z) + (1 - target) * logsigmoid(-z)).sum()


def class_costs(z, t, softmax):
    """What a pair adds to the cost, and its KL."""
    if softmax:
        p = t.softmax(-1)
        return -(p * z.log_softmax(-1)).sum(), (p * (p.log() - z.log_softmax(-1))).sum()
    return bce(z, t.sigmoid()), bce(z, t.sigmoid()) - bce(t, t.sigmoid())


def expected_losses(cls, box, teacher_cls, teacher_box, softmax):
    """Every one-to-one matching tried, pair by pair, layer by layer."""
    sums, count = dict.fromkeys(NAMES, 0.0), 0.0
    for z, b, t, tb in zip(*(x.flatten(0, 1) for x in (cls, box, teacher_cls, teacher_box))):
        pairs = {}
        for i, j in itertools.product(range(len(z)), range(len(t))):
            cost, kl = class_costs(z[i], t[j], softmax)
            l1, overlap = (b[i] - tb[j]).abs().sum(), giou(b[i], tb[j])
            pairs[i, j] = float(cost + 5 * l1 - 2 * overlap), (kl, 5 * l1, 2 * (1 - overlap))
        best = min(
            itertools.permutations(range(len(z)), len(t)),
            key=lambda found: sum(pairs[i, j][0] for j, i in enumerate(found)),
        )
        for j, i in enumerate(best):
            score = (t[j].softmax(-1)[:-1] if softmax else t[j].sigmoid()).max()
            count = count + score
            for name, value in zip(NAMES, pairs[i, j][1]):
                sums[name] = sums[name] + score * value
    assert count > 1
    return {name: value / count for name, value in sums.items()}


@pytest.mark.parametrize('kind', ['detr', 'dab', 'dino'])
def test_values_and_gradients_are_those_of_every_matching_tried(kind, tmp_path):
    model = taught(
        tmp_path, query_detector(kind, queries=5), query_detector(kind, queries=4, width=16)
    )
    batch = det_batch(model)
    kd, outputs = step(model, batch)
    own = [x[:, :, -5:] for x in outputs]  # what comes before are DINO's denoising queries
    assert (outputs[0].shape[2] > 5) == (kind == 'dino')
    expected = expected_losses(*own, *teachers_say(model, batch), softmax=kind == 'detr')
    for name in NAMES:
        torch.testing.assert_close(kd[name], expected[name], rtol=1e-4, atol=1e-5)
    value, wanted = sum(kd.values()), sum(expected.values())
    both = [torch.autograd.grad(x, outputs, retain_graph=True) for x in (value, wanted)]
    for mine, other in zip(*both):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))
    if kind == 'dino':
        first = torch.autograd.grad(value, outputs, retain_graph=True)[0][:, :, :-5]
        assert first.numel() and first.eq(0).all()


@pytest.mark.parametrize(
    'kind, matching',
    [
        ('detr', 'hungarian'), ('detr', 'queries'), ('dab', 'queries'), ('deformable', 'queries'),
        ('dino', 'hungarian'), ('dino', 'queries'),
    ],
)  # fmt: skip
def test_other_numbers_depths_and_widths(kind, matching, tmp_path):
    teacher = query_detector(kind, queries=7, layers=3, embed=32, width=16)
    student = query_detector(kind, queries=4, layers=2, embed=16)
    model = taught(tmp_path, student, teacher, matching=matching)
    batch = det_batch(model, shapes=((64, 48), (64, 64)))
    kd, _ = step(model, batch)
    sum(kd.values()).backward()
    assert all(value.isfinite() and value > 1e-3 for value in kd.values())
    for part in ('backbone.layer4', 'encoder', 'decoder', 'bbox_head'):
        grads = [p.grad for p in model.get_submodule(part).parameters() if p.grad is not None]
        assert sum(float(g.abs().sum()) for g in grads) > 0, part
    maps = dict(model.distillation.named_parameters())
    assert bool(maps) == (matching == 'queries')
    assert any(p.grad.abs().sum() > 0 for p in maps.values()) or matching == 'hungarian' or (
        kind == 'dab'  # whose queries have no content
    )  # fmt: skip


def test_layers_are_mapped_by_depth():
    layers = QueryCriterion._layers
    options = type('Options', (), dict(teacher_layers='depth'))
    assert layers(options, 6, 6) == [0, 1, 2, 3, 4, 5]
    assert layers(options, 3, 6) == [1, 3, 5]
    assert layers(options, 6, 3) == [0, 0, 1, 1, 2, 2]
    assert layers(options, 6, 1) == [0] * 6
    options.teacher_layers = 'last'
    assert layers(options, 3, 6) == [5, 5, 5]


def test_only_the_surest_of_the_teachers_queries_teach(tmp_path):
    teacher = query_detector('conditional', queries=6, layers=1)
    student = query_detector('conditional', queries=5, layers=1)
    model = taught(tmp_path, student, teacher, top=2)
    batch = det_batch(model)
    kd, outputs = step(model, batch)
    cls, box = teachers_say(model, batch)
    best = cls.sigmoid().amax(-1).topk(2).indices
    cls, box = (torch.stack([x[0, i, best[0, i]] for i in range(2)])[None] for x in (cls, box))
    expected = expected_losses(*outputs, cls, box, softmax=False)
    for name in NAMES:
        torch.testing.assert_close(kd[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['detr', 'conditional'])
def test_classes_are_matched_by_name(kind, tmp_path):
    names = ('fox', 'dog', 'cat', 'cow')
    teacher = query_detector(kind, queries=4, classes=4, layers=1)
    model = taught(tmp_path, query_detector(kind, queries=4, layers=1), teacher, names=names)
    batch = det_batch(model)
    kd, (cls, box) = step(model, batch)
    their_cls, their_box = teachers_say(model, batch)
    rest = [-1] if kind == 'detr' else []
    cls, their_cls = cls[..., [0, 1, *rest]], their_cls[..., [2, 1, *rest]]  # cat and dog
    expected = expected_losses(cls, box, their_cls, their_box, softmax=kind == 'detr')
    for name in NAMES:
        torch.testing.assert_close(kd[name], expected[name], rtol=1e-4, atol=1e-5)


def test_ignored_boxes_teach_nothing_and_the_graph_stays_whole(tmp_path):
    model = taught(tmp_path, query_detector('dab'), query_detector('dab', width=16))
    everything = [[-99, -99, 199, 199]]
    kd, outputs = step(model, det_batch(model, boxes=[[], []], ignored=[everything] * 2))
    assert all(value == 0 for value in kd.values())
    sum(kd.values()).backward()
    assert all(p.grad is None or p.grad.eq(0).all() for p in model.parameters())
    batch = det_batch(model, ignored=[everything, []])
    kd, outputs = step(model, batch)
    first, second = torch.autograd.grad(sum(kd.values()), outputs[1])[0].unbind(1)
    assert first.eq(0).all() and second.abs().sum() > 0


def test_the_students_own_queries_do_not_notice_the_teachers(tmp_path):
    losses = []
    for keys in (dict(), dict(matching='queries')):
        model = taught(tmp_path, query_detector('dino'), query_detector('dino', width=16), **keys)
        torch.manual_seed(3)
        losses.append({n: v for n, v in model.loss(*det_batch(model)).items() if n[:2] != 'kd'})
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


@pytest.mark.parametrize('kind', ['detr', 'dino'])
def test_under_autocast(kind, tmp_path):
    model = taught(
        tmp_path, query_detector(kind), query_detector(kind, width=16), matching='queries'
    )
    with torch.autocast('cpu', dtype=torch.bfloat16):
        kd, outputs = step(model, det_batch(model))
    assert outputs[0].dtype == torch.bfloat16
    assert all(v.dtype == torch.float32 and v.isfinite() and v > 0 for v in kd.values())


def test_a_two_stage_teacher_of_a_one_stage_student(tmp_path):
    teacher = query_detector('twostage', layers=1)
    for matching in ('hungarian', 'queries'):
        model = taught(tmp_path, query_detector('deformable'), teacher, matching=matching)
        kd, _ = step(model, det_batch(model))
        assert all(value.isfinite() and value > 1e-3 for value in kd.values())
    own = find_family(plain(query_detector('twostage', layers=1)))
    assert 'scores' in own.gives and 'scores' not in model.distillation.family.gives


def test_a_run_with_validation_whose_files_are_plain_students(tmp_path):
    root = write_toy_data(tmp_path / 'data')
    model = dict(
        type='mmkd.Distiller',
        student=query_detector('dino', classes=2),
        teacher=random_teacher(query_detector('dino', classes=2, width=16, embed=16)),
        terms=dict(kd=dict(type='LogitKD', matching='queries')),
        exits=dict(
            encoder=dict(type='SemanticExit', tap='encoder'),
        ),
    )
    cfg = toy_config('det', root, tmp_path / 'run', model, iters=2, val_interval=2, save_interval=2)
    _, logged = train(cfg)
    assert {'kd.loss_cls', 'encoder.kd_loss_cls', 'd0.dn_loss_cls'} <= set(logged[0])
    saved = torch.load(tmp_path / 'run' / 'iter_2.pth', weights_only=False)
    init_default_scope('mmdet')
    stock = MODELS.build(query_detector('dino', classes=2))
    stock.load_state_dict(saved['state_dict'], strict=True)
    assert any('maps' in name for name in saved['distill_state']['parts']['terms.kd'])
    written = list((tmp_path / 'run').glob('*.student.py'))
    assert len(written) == 1 and 'share_pred_layer' not in written[0].read_text()


def test_weight_0_leaves_gradients_and_the_random_stream_alone(tmp_path):
    results = []
    for weight in (None, 0.0):
        cfg = query_detector('dino')
        terms = dict(kd=dict(type='LogitKD', weight=weight, matching='queries'))
        teacher = random_teacher(query_detector('dino', embed=16))
        model = (
            plain(cfg).train()
            if weight is None
            else distil(cfg, ANIMALS[:3], teacher=teacher, terms=terms)
        )
        torch.manual_seed(7)
        losses = model.loss(*det_batch(model))
        total(losses).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((losses, grads, torch.random.get_rng_state()))
    (ours, mine, stream), (theirs, other, stock_stream) = results
    assert torch.equal(stream, stock_stream) and ours.keys() == theirs.keys()
    assert mine.keys() == other.keys() and all(torch.equal(mine[n], other[n]) for n in mine)


@pytest.mark.parametrize(
    'kind, matching', [('dino', 'hungarian'), ('dino', 'queries'), ('dab', 'queries')]
)
def test_images_alone_teach_and_their_labels_are_not_read(kind, matching, tmp_path):
    path = save(lively(plain(query_detector(kind, width=16)), 1), tmp_path / 'teacher.pth')
    teacher = dict(config=query_detector(kind, width=16), checkpoint=path, classes='same')
    model = distil(
        query_detector(kind), ANIMALS[:3], teacher=teacher, student_loss_weight=0,
        terms=dict(kd=dict(type='LogitKD', matching=matching)),
    )  # fmt: skip
    lively(model, 2)
    inputs, samples = det_batch(model)
    labelled = model.loss(inputs, samples)
    for sample in samples:
        del sample.gt_instances
    losses = model.loss(inputs, samples)
    assert set(losses) == {f'kd.{name}' for name in NAMES}
    assert all(x > 0 and torch.equal(x, labelled[name]) for name, x in losses.items())
    total(losses).backward()
    for part in ('backbone.layer4', 'encoder', 'decoder'):
        grads = [p.grad for p in model.get_submodule(part).parameters() if p.grad is not None]
        assert sum(float(g.abs().sum()) for g in grads) > 0, part


def test_a_two_stage_teacher_says_where_it_is_sure():
    def with_region(teacher):
        term = dict(type='FeatureKD', tap='neck', region=dict(type='ConfidenceRegion'))
        teacher = random_teacher(query_detector(teacher, embed=32))
        student = query_detector('dino' if teacher['config']['type'] == 'DINO' else 'dab')
        return distil(student, ANIMALS[:3], teacher=teacher, terms=dict(f=term))

    model = with_region('dino')
    lively(model.distillation.teachers[None].model, 1)
    lessons = []
    model.distillation.parts[0].register_forward_pre_hook(lambda m, a: lessons.append(a[0]))
    model.loss(*det_batch(model))
    lesson = lessons[0]
    outputs = lesson.teacher(None).predictions.outputs
    scores = [x.amax(1, keepdim=True).sigmoid() for x in outputs['cls']]
    assert [x.shape[-1] for x in scores] == [8, 4, 2] and scores[0].max() > 0.5
    for size, level in ((16, 0), (8, 0), (4, 1), (1, 2)):
        found = lesson.context(['scores'], (size, size), None)['scores']
        wanted = scores[level]
        if size == 16:
            wanted = wanted.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if size == 1:
            wanted = wanted.amax((2, 3), keepdim=True)
        assert torch.equal(found, wanted)
    region = model.distillation.parts[0].region(lesson, (8, 8))
    coarse = [x.repeat_interleave(8 // x.shape[-1], 2) for x in scores]
    coarse = [x.repeat_interleave(8 // x.shape[-1], 3) for x in coarse]
    assert torch.equal(region, torch.stack(coarse).amax(0))
    with pytest.raises(ValueError, match=r"term 'f': .* asks for scores, .* DABDETR does not g"):
        with_region('dab')


@pytest.mark.parametrize(
    'student, teacher, losses, message',
    [
        ('detr', 'conditional', {}, "student's DETRHead classifies by softmax, .* by sigmoid; or"),
        ('conditional', None, {}, 'query-based detector, the teacher RetinaNet is not; or distil'),
        (None, 'dino', {}, 'student is a dense detector, the teacher DINO is not; or distil'),
        (
            'deformable', 'dino', dict(matching='queries'),
            'DeformableDETR takes content, positions .*, that of the teacher DINO content and ref'
            ".*use matching='hungarian'",
        ),
        ('dino', 'dino', dict(matching='hungry'), "matching='hungry' must be one of"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(student, teacher, losses, message):
    student, teacher = (detector() if x is None else query_detector(x) for x in (student, teacher))
    with pytest.raises(ValueError, match=message) as error:
        distil(
            student, ANIMALS[:3], teacher=random_teacher(teacher),
            terms=dict(kd=dict(type='LogitKD', **losses)),
        )  # fmt: skip
    assert str(error.value).startswith("term 'kd': ") and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'losses, message',
    [
        (
            dict(teacher_layers='first'),
            r"^LogitKD: teacher_layers='first' must be one of \('depth', 'last'\)$",
        ),
        (dict(top=0), '^LogitKD: top=0 must be a number of queries, or None: all$'),
        (dict(loss_dfl=None), "^LogitKD: unknown argument 'loss_dfl'; this family has loss_bbox, "),
    ],
)
def test_options_that_do_not_exist(losses, message):
    model = plain(query_detector('detr'))
    with pytest.raises(ValueError, match=message):
        QueryCriterion(model, model, losses)


@pytest.mark.parametrize(
    'kind, student, message',
    [
        (
            'CrossExit',
            detector(),
            "^exit 'e': the teacher DINO has no towers; use SemanticExit",
        ),
        (
            'DenseExit',
            query_detector('dino'),
            "^exit 'e': DenseExit needs a RetinaNet, .*, not DINO",
        ),
    ],
)
def test_exits_that_need_a_dense_head(kind, student, message):
    exits = dict(e=dict(type=kind, tap='backbone[1:]'))
    with pytest.raises(ValueError, match=message):
        distil(student, ANIMALS[:3], teacher=random_teacher(query_detector('dino')), exits=exits)


def test_heads_of_a_kind_of_their_own_are_left_alone():
    model = plain(query_detector('dino'))
    assert type(find_family(model)) is QueryDetector
    model.bbox_head.__class__ = type('Other', (type(model.bbox_head),), dict(forward=lambda x: x))
    assert type(find_family(model)) is not QueryDetector


def on_a_rank(rank, store, folder):
    """The KD's gradients on one of the batch's two images."""
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    torch.save(gradients(folder, slice(rank, rank + 1)), folder / f'{rank}.pth')
    dist.destroy_process_group()


def gradients(folder, images):
    teacher = dict(config=query_detector('dab', width=16), classes='same')
    teacher['checkpoint'] = str(folder / 'teacher.pth')
    found = []
    for matching in ('hungarian', 'queries'):
        terms = dict(kd=dict(type='LogitKD', matching=matching))
        model = distil(query_detector('dab'), ANIMALS[:3], teacher=teacher, terms=terms)
        lively(model, 2)
        inputs, samples = det_batch(model, ignored=[[], [[0, 0, 30, 30]]])
        losses = model.loss(inputs[images], samples[images])
        sum(losses[f'kd.{name}'] for name in NAMES).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    return found


@pytest.mark.slow
def test_two_processes_teach_like_one(tmp_path):
    save(lively(plain(query_detector('dab', width=16)), 1), tmp_path / 'teacher.pth')
    mp.spawn(on_a_rank, args=(str(tmp_path / 'store'), tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1)]
    for alone, first, second in zip(gradients(tmp_path, slice(None)), *ranks):
        assert alone.keys() == first.keys() == second.keys()
        largest = max(float(g.abs().max()) for g in alone.values())
        for name, gradient in alone.items():
            both = (first[name] + second[name]) / 2  # as DDP averages
            torch.testing.assert_close(both, gradient, rtol=1e-3, atol=1e-4 * largest)
