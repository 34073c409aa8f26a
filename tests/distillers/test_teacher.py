"""The teacher is only read, from its own inputs, and only as deep as it is needed."""

import copy

import pytest
import torch
from toys import (
    CAFFE,
    batch_for,
    det_batch,
    detector,
    distil,
    images,
    random_teacher,
    seg_batch,
    segmentor,
    total,
)

from mmkd.terms.tap import Tap

TERMS = dict(kd=dict(type='LogitKD'), f=dict(type='FeatureKD', tap='backbone[1:]'))


def calls_of(module):
    """Counts how often a module is called, in a list that grows."""
    count = []
    module.register_forward_hook(lambda *a: count.append(1))
    return count


def teacher_of(model):
    return model.distillation.teachers[None].model


@pytest.fixture(params=['detector', 'segmentor'])
def distilled(request):
    if request.param == 'detector':
        return distil(detector(), teacher=random_teacher(detector(width=16)), terms=TERMS)
    return distil(segmentor(), teacher=random_teacher(segmentor(width=16)), terms=TERMS)


def test_steps_leave_the_teacher_untouched(distilled):
    teacher = teacher_of(distilled)
    before = copy.deepcopy(teacher.state_dict())
    optimizer = torch.optim.SGD(distilled.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        distilled.train()
        total(distilled.loss(*batch_for(distilled))).backward()
        optimizer.step()
    assert not any(module.training for module in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    theirs = {id(p) for p in teacher.parameters()}
    assert not theirs & {id(p) for p in distilled.parameters()}
    assert not theirs & {id(p) for g in optimizer.param_groups for p in g['params']}
    assert not any(m is teacher for m in distilled.modules())
    assert not any('teacher' in name for name in distilled.state_dict())


def test_it_follows_the_model_to_another_type(distilled):
    distilled.double()
    assert {p.dtype for p in teacher_of(distilled).parameters()} == {torch.float64}
    distilled.to(torch.float32)
    assert {p.dtype for p in teacher_of(distilled).parameters()} == {torch.float32}


def test_a_copy_has_none_and_leaves_the_original_its_own(distilled):
    teacher = teacher_of(distilled)
    twin = copy.deepcopy(distilled)
    assert twin.distillation.teachers is None
    twin.double()
    assert next(teacher.parameters()).dtype == torch.float32
    twin.float()
    batch = batch_for(distilled)
    own = {n for n in distilled.loss(*batch) if not n.startswith(('kd.', 'f.'))}
    assert set(twin.loss(*batch)) == own
    assert sum(p.numel() for p in twin.parameters()) == sum(
        p.numel() for p in distilled.parameters()
    )


@pytest.mark.parametrize(
    'term, backbone, neck, head',
    [
        (dict(type='FeatureKD', tap='backbone'), 1, 0, 0),
        (dict(type='FeatureKD', tap='backbone.layer2'), 0, 0, 0),
        (dict(type='FeatureKD', tap='neck'), 1, 1, 0),
        (dict(type='FeatureKD', tap='neck.fpn_convs.1:in'), 1, 0, 0),
        (dict(type='LogitKD'), 1, 1, 1),
        (dict(type='LogitKD', schedule=dict(begin=10**6)), 0, 0, 0),
        (dict(type='LogitKD', weight=0.0), 0, 0, 0),
        (dict(type='FeatureKD', tap='neck', region=dict(type='ConfidenceRegion')), 1, 1, 1),
    ],
)
def test_a_detector_runs_as_deep_as_its_deepest_tap(term, backbone, neck, head):
    model = distil(detector(), teacher=random_teacher(detector(width=16)), terms=dict(t=term))
    teacher = teacher_of(model)
    stem = calls_of(teacher.backbone.conv1)
    counts = [calls_of(m) for m in (teacher.backbone, teacher.neck, teacher.bbox_head)]
    model.loss(*det_batch(model))
    assert [len(c) for c in counts] == [backbone, neck, head]
    assert len(stem) == (term.get('weight') != 0.0 and 'begin' not in term.get('schedule', {}))


def test_a_stage_tap_ends_the_forward_pass_within_the_backbone():
    term = dict(type='FeatureKD', tap='backbone.layer2')
    model = distil(detector(), teacher=random_teacher(detector(width=16)), terms=dict(t=term))
    backbone = teacher_of(model).backbone
    second, third = calls_of(backbone.layer2), calls_of(backbone.layer3)
    model.loss(*det_batch(model))
    assert (len(second), len(third)) == (1, 0)


def test_a_tap_that_fires_once_per_level_is_heard_to_its_end():
    term = dict(type='FeatureKD', tap='bbox_head.cls_convs.0')
    model = distil(detector(), teacher=random_teacher(detector(width=16)), terms=dict(t=term))
    tower = calls_of(teacher_of(model).bbox_head.cls_convs[0])
    assert model.loss(*det_batch(model))['t.loss'] > 0
    assert len(tower) == 3


def test_a_segmentor_runs_as_deep_as_its_deepest_tap():
    for term, expected in (
        (dict(type='FeatureKD', tap='backbone'), (1, 0)),
        (dict(type='LogitKD'), (1, 1)),
        (dict(type='LogitKD', schedule=dict(end=5)), (0, 0)),
    ):
        model = distil(
            segmentor('ocr'), teacher=random_teacher(segmentor('ocr')), terms=dict(t=term)
        )
        teacher = teacher_of(model)
        counts = calls_of(teacher.backbone), calls_of(teacher.decode_head[-1].conv_seg)
        model.loss(*seg_batch(model))
        assert tuple(len(c) for c in counts) == expected, term


def test_terms_that_share_a_teacher_run_it_once():
    model = distil(
        detector(), teacher=random_teacher(detector(width=16)), terms=TERMS,
        exits=dict(e=dict(type='DenseExit', tap='neck', feat=0.5)),
    )  # fmt: skip
    count = calls_of(teacher_of(model).backbone)
    model.loss(*det_batch(model))
    assert len(count) == 1


def test_it_runs_before_the_student():
    # what it needs while it runs would come on top of what the student keeps
    student = detector()
    model = distil(student, teacher=random_teacher(student), terms=dict(kd=dict(type='LogitKD')))
    order = []
    for name, network in (('student', model), ('teacher', model.distillation.teachers[None].model)):
        network.backbone.register_forward_hook(lambda *_, name=name: order.append(name))
    model.loss(*det_batch(model))
    assert order == ['teacher', 'student']


def test_several_teachers_each_run_when_asked():
    several = dict(big=random_teacher(detector(width=16)), wide=random_teacher(detector(width=24)))
    model = distil(
        detector(), teacher=several,
        terms=dict(a=dict(type='LogitKD', teacher='big'),
                   b=dict(type='FeatureKD', tap='neck', teacher='wide')),
    )  # fmt: skip
    teachers = model.distillation.teachers
    counts = [calls_of(teachers[n].model.bbox_head) for n in ('big', 'wide')]
    losses = model.loss(*det_batch(model))
    assert {'a.loss_cls', 'b.loss'} <= set(losses)
    assert [len(c) for c in counts] == [1, 0]


SHAPES = ((64, 48), (40, 64))


def test_a_tap_that_the_teacher_changes_in_place_is_heard_as_the_module_gave_it():
    address = 'backbone.layer1.0.bn2'  # added to the shortcut in place
    term = dict(type='FeatureKD', tap=address)
    model = distil(segmentor(), teacher=random_teacher(segmentor()), terms=dict(f=term))
    given = []
    module = teacher_of(model).get_submodule(address)
    module.register_forward_hook(lambda m, args, output: given.append(output.clone()))
    tap = Tap.parse(address)
    heard = model.distillation.teachers[None].run(*seg_batch(model), {tap}, True)
    assert torch.equal(heard.capture.read(tap)[0], given[0])


@pytest.mark.parametrize('kind', ['detector', 'segmentor'])
def test_it_predicts_what_its_own_preprocessor_would_have_made_it_predict(kind):
    make, batch = dict(detector=(detector, det_batch), segmentor=(segmentor, seg_batch))[kind]
    model = distil(
        make(), teacher=random_teacher(make(width=16, pixels=CAFFE)),
        terms=dict(kd=dict(type='LogitKD')),
    )  # fmt: skip
    teacher = teacher_of(model)
    inputs, samples = batch(model, shapes=SHAPES)
    seen = []
    teacher.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    heard = model.distillation.teachers[None].run(inputs, samples, set(), True)

    own, _ = batch(teacher, shapes=SHAPES)
    assert own.shape == inputs.shape and not torch.allclose(own, inputs, atol=1.0)
    assert torch.equal(own[0, :, :, 48:], torch.zeros(3, 64, 16))
    torch.testing.assert_close(seen[0], own, rtol=1e-5, atol=2e-5 * own.abs().max().item())
    with torch.no_grad():
        expected = teacher.extract_feat(own)
        if kind == 'detector':
            expected = [x for maps in teacher.bbox_head(expected) for x in maps]
        else:
            expected = [teacher.decode_head.forward(expected)]
    got = [x for maps in heard.predictions.outputs.values() for x in maps]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_images_of_these_batches_are_not_trivial():
    assert images(SHAPES)[0].float().std() > 50


@pytest.mark.parametrize(
    'teacher, message',
    [
        (dict(config=detector()), 'teacher: checkpoint= is missing'),
        (dict(checkpoint=None, config=detector(), clases=()), "unknown key 'clases'"),
        (dict(checkpoint='published', config=detector()), 'lists no weights'),
        (dict(checkpoint='nowhere.pth', config=detector()), 'nowhere.pth'),
        ('some.pth', 'must be dict'),
    ],
)
def test_mistakes_are_one_line(teacher, message):
    with pytest.raises(ValueError, match=message) as error:
        distil(detector(), teacher=teacher, terms=dict(kd=dict(type='LogitKD')))
    assert '\n' not in str(error.value)
