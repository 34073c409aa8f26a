"""The student itself, and its average, as teachers."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import init_default_scope
from toys import batch_for, det_batch, detector, distil, random_teacher, seg_batch, segmentor, total

from mmkd.families.dense_criterion import decode
from mmkd.hooks import DistillHook
from mmkd.testing import (
    differences,
    run_state,
    toy_config,
    toy_distiller,
    toy_model,
    train,
    write_toy_data,
)

SEG = dict(e=dict(type='SegExit', tap='backbone[1:3]', gt=0.0, kd=1.0, dropout=0.0))
DENSE = dict(e=dict(type='DenseExit', tap='backbone[1:]'))
HINT = dict(type='FeatureKD', tap='backbone[1]', teacher_tap='backbone[2]')
MSE = dict(type='FeatureMSE')


def test_an_exit_is_taught_the_students_own_predictions():
    model = distil(segmentor(), teacher='self', exits=SEG)
    exit_ = model.distillation.parts[0]
    branch_says = []
    for branch in exit_.branches:
        branch.register_forward_hook(lambda m, args, out: branch_says.append(out))
    logits = []
    model.decode_head.conv_seg.register_forward_hook(lambda m, args, out: logits.append(out))
    inputs, samples = seg_batch(model)
    losses = model.loss(inputs, samples)
    expected = 0.0
    for said in branch_says:
        theirs = logits[0].detach()
        size = tuple(min(a, b) for a, b in zip(said.shape[-2:], theirs.shape[-2:]))
        ours, theirs = (
            x if x.shape[-2:] == size else F.interpolate(x, size, mode='bilinear')
            for x in (said, theirs)
        )
        p = theirs.softmax(1)
        expected = expected + 0.25 * (p * (p.log() - ours.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(losses['e.kd_loss_seg'], expected, rtol=1e-5, atol=1e-6)


def test_its_predictions_get_no_gradient_from_what_they_teach():
    model = distil(segmentor(), teacher='self', exits=SEG)
    losses = model.loss(*seg_batch(model))
    losses['e.kd_loss_seg'].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.decode_head.parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.backbone.layer4.parameters())
    assert model.backbone.layer2[0].downsample[0].weight.grad.norm() > 0


def test_an_early_stage_is_taught_a_late_one():
    model = distil(segmentor(), teacher='self', terms=dict(f=dict(HINT, loss=MSE)))
    stages = []
    model.backbone.register_forward_hook(lambda m, args, out: stages.append(out))
    losses = model.loss(*seg_batch(model))
    adapter = model.distillation.parts[0].adapters[0]
    early, late = stages[0][1], stages[0][2].detach()
    expected = (adapter(early, late.shape[-2:]) - late).square().mean()
    torch.testing.assert_close(losses['f.loss'], expected, rtol=1e-5, atol=1e-6)
    losses['f.loss'].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.backbone.layer3.parameters())
    assert model.backbone.layer2[0].downsample[0].weight.grad.norm() > 0


@pytest.mark.parametrize('kind', ['retina', 'fcos', 'atss', 'gfl'])
def test_the_boxes_of_a_student_in_training_are_read_as_its_head_means_them(kind):
    """FCOS leaves out the stride in training: misread, its boxes would be 8 to 32 times off."""
    model = distil(detector(kind), teacher='self', exits=DENSE)
    lesson = {}
    exit_ = model.distillation.parts[0]
    stock = exit_.distil

    def spy(outputs, given):
        lesson['targets'] = given.targets(None)
        lesson['head'] = given.student.predictions.outputs
        return stock(outputs, given)

    exit_.distil = spy
    losses = model.loss(*det_batch(model))
    assert torch.isfinite(total(losses)) and losses['e.kd_loss_cls'] > 0
    boxes = decode(model.bbox_head, lesson['head']['box'], training=True)
    torch.testing.assert_close(lesson['targets'].boxes, boxes)
    assert not lesson['targets'].boxes.requires_grad


def test_it_stands_beside_another_teacher():
    model = distil(
        segmentor(), teacher=random_teacher(segmentor(width=16)),
        terms=dict(kd=dict(type='LogitKD')), exits=dict(e=dict(SEG['e'], teacher='self')),
    )  # fmt: skip
    losses = model.loss(*seg_batch(model))
    assert losses['kd.loss_seg'] > 0 and losses['e.kd_loss_seg'] > 0
    assert list(model.distillation.needs()) == [None]


@pytest.mark.parametrize('teacher', ['self', 'ema'])
def test_copies_and_files_hold_no_teacher(teacher):
    model = distil(segmentor(), teacher=teacher, exits=SEG)
    stock = MMENGINE_MODELS.build(dict(segmentor()))
    assert set(model.state_dict()) == set(stock.state_dict())
    names = [n for n, _ in model.named_parameters()]
    assert all(n.startswith(('backbone.', 'decode_head.', 'distillation.parts.')) for n in names)
    twin = copy.deepcopy(model)
    assert twin.distillation.teachers is None
    assert pickle.loads(pickle.dumps(model)).distillation.teachers is None
    assert set(twin.loss(*seg_batch(twin))) == set(stock.loss(*seg_batch(stock)))
    model.double()
    assert {p.dtype for p in model.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (dict(terms=dict(kd=dict(type='LogitKD', teacher='self'))), 'be their own target'),
        (dict(terms=dict(f=dict(type='FeatureKD', tap='neck', teacher='self'))), "teacher='ema'"),
        (dict(exits=dict(e=dict(DENSE['e'], feat=1.0, teacher='self'))), 'be its own target'),
        (dict(exits=dict(e=dict(type='CrossExit', tap='neck', start=1, teacher='self'))), 'frozen'),
        (dict(teacher='mine'), "'self' or 'ema'"),
        (dict(teacher=dict(ema=random_teacher(detector()))), 'choose another'),
        (dict(teacher='self', inherit=['neck']), 'no teacher to inherit from'),
    ],
)
def test_mistakes_are_one_line(keys, message):
    with pytest.raises(ValueError, match=message) as error:
        distil(detector(), **keys)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('teacher', ['self', 'ema'])
def test_it_is_not_judged_apart_from_the_student(teacher):
    model = distil(segmentor(), teacher=teacher, exits=SEG)
    with pytest.raises(ValueError, match='is the student itself'):
        model.judge_teacher(('a', 'b', 'c', 'd'))


def test_an_average_that_nobody_handed_over_teaches_nothing():
    model = distil(detector(), teacher='ema', terms=dict(kd=dict(type='LogitKD')))
    with pytest.raises(ValueError, match='has no average yet'):
        model.loss(*batch_for(model))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp('data'))


def _run(kind, root, folder, teacher, ema=None, iters=4, **changes):
    exits = dict(
        det=dict(stages=dict(type='DenseExit', tap='backbone[1:]', schedule=dict(warmup=3))),
        seg=dict(stages=dict(type='SegExit', tap='backbone[1:3]', schedule=dict(warmup=3))),
    )[kind]
    terms = dict(hint=dict(HINT, loss=MSE))
    if teacher == 'ema':
        terms['kd'] = dict(type='LogitKD')
    model = toy_distiller(kind, teacher=teacher, terms=terms, exits=exits)
    return toy_config(kind, root, folder, model, iters, flip=False, ema=ema, **changes)


def test_the_average_is_the_hooks_from_the_first_step_on(root, tmp_path, monkeypatch):
    seen = []
    stock = DistillHook.before_train_iter

    def spy(hook, runner, batch_idx, data_batch=None):
        stock(hook, runner, batch_idx, data_batch)
        average = next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model.module
        teacher = runner.model.distillation.teachers[None]
        pairs = zip(average.backbone.parameters(), runner.model.backbone.parameters())
        gap = max(float((a - b).detach().abs().max()) for a, b in pairs)
        seen.append((teacher.model is average, average.training, gap))

    monkeypatch.setattr(DistillHook, 'before_train_iter', spy)
    runner, losses = train(_run('seg', root, tmp_path, 'ema', ema=dict()))
    assert [same for same, _, _ in seen] == [True] * 4
    assert not any(training for _, training, _ in seen)
    # the student it started as, then its copy, then an average that lags behind
    assert seen[0][2] == seen[1][2] == 0 and seen[2][2] > 0 and seen[3][2] > 0
    assert all(x['kd.loss_seg'] > 0 for x in losses)
    teacher = runner.model.distillation.teachers[None].model
    assert not any(p.requires_grad for p in teacher.parameters())


def test_without_an_ema_hook_it_does_not_start(root, tmp_path):
    with pytest.raises(ValueError, match=r'no EMAHook keeps an average.*custom_hooks=') as error:
        train(_run('seg', root, tmp_path, 'ema'))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('kind', 'teacher', 'buffers'),
    [
        pytest.param('seg', 'self', True, marks=pytest.mark.slow),
        ('det', 'self', False),
        ('seg', 'ema', False),
        pytest.param('det', 'ema', True, marks=pytest.mark.slow),
    ],
)
def test_resumed_equals_uninterrupted(kind, teacher, buffers, root, tmp_path):
    settings = dict(ema=dict(update_buffers=buffers), save_interval=2)
    whole, losses = train(_run(kind, root, tmp_path / 'whole', teacher, **settings))
    file = tmp_path / 'whole' / 'iter_2.pth'
    torch.manual_seed(99)
    load = dict(load_from=str(file), resume=True)
    resumed, rest = train(_run(kind, root, tmp_path / 'resumed', teacher, **settings, **load))
    assert [differences(a, b) for a, b in zip(losses[2:], rest, strict=True)] == [[]] * 2
    assert differences(run_state(whole), run_state(resumed)) == []
    init_default_scope(f'mm{kind}')
    stock = MMENGINE_MODELS.build(toy_model(kind))
    stock.load_state_dict(torch.load(file, weights_only=False)['state_dict'], strict=True)


@pytest.mark.parametrize('teacher', [pytest.param('self', marks=pytest.mark.slow), 'ema'])
def test_with_weights_0_it_is_the_stock_student(teacher, root, tmp_path):
    model = toy_distiller(
        'seg', off=True, teacher=teacher, terms=dict(hint=HINT),
        exits=dict(stages=dict(type='SegExit', tap='backbone[1:3]')),
    )  # fmt: skip
    ema = dict(ema=dict()) if teacher == 'ema' else {}
    ours, _ = train(toy_config('seg', root, tmp_path / 'ours', model, 3, **ema))
    stock, _ = train(toy_config('seg', root, tmp_path / 'stock', None, 3, **ema))
    own = {n: x for n, x in run_state(ours).items() if 'distillation.' not in n}
    assert differences(own, run_state(stock)) == []
