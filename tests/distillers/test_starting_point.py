"""Where the student's weights start."""

import pytest
import torch
from toys import det_batch, detector, distil, lively, plain, random_teacher, save, segmentor

from mmkd.registry import MODELS


def build(student=None, **keys):
    return MODELS.build(dict(type='mmkd.Distiller', student=student or detector(), **keys))


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_checkpoint_acts_in_init_weights_after_the_students_own(tmp_path):
    source = lively(plain(detector()))
    path = save(source, tmp_path / 's.pth')
    torch.manual_seed(0)
    model = build(student_checkpoint=path)
    assert not model.starting_point.applied
    with torch.no_grad():
        model.bbox_head.retina_cls.weight.zero_()
    model.init_weights()
    assert model.starting_point.applied
    assert equal(model.state_dict(), source.state_dict())


def test_without_one_the_students_own_initialisation_is_left_alone():
    torch.manual_seed(5)
    model = build()
    model.init_weights()
    assert model.starting_point.applied
    assert equal(model.state_dict(), plain(detector(), seed=5).state_dict())


def test_inherit_copies_named_modules_and_no_others(tmp_path):
    source = lively(plain(detector()))
    teacher = dict(config=detector(), checkpoint=save(source, tmp_path / 't.pth'))
    model = distil(
        detector(), teacher=teacher, inherit=['neck', 'bbox_head.retina_cls'],
        terms=dict(f=dict(type='FeatureKD', tap='neck')),
    )  # fmt: skip
    copied = ('neck.', 'bbox_head.retina_cls.')
    stock = plain(detector()).state_dict()
    for name, value in model.state_dict().items():
        expected = source.state_dict() if name.startswith(copied) else stock
        assert torch.equal(value, expected[name]), name
    # copies, not the same tensors
    model.neck.lateral_convs[0].conv.weight.data.zero_()
    assert model.distillation.teachers[None].model.neck.lateral_convs[0].conv.weight.any()
    assert all(p.requires_grad for p in model.neck.parameters())


def test_inherit_comes_after_the_checkpoint(tmp_path):
    start, source = lively(plain(detector()), 1), lively(plain(detector()), 2)
    model = build(
        student_checkpoint=save(start, tmp_path / 's.pth'), inherit=['neck'],
        teacher=dict(config=detector(), checkpoint=save(source, tmp_path / 't.pth')),
    )  # fmt: skip
    model.init_weights()
    assert equal(model.neck.state_dict(), source.neck.state_dict())
    assert equal(model.backbone.state_dict(), start.backbone.state_dict())


def test_student_that_starts_as_its_teacher_learns_nothing_from_it(tmp_path):
    path = save(lively(plain(detector())), tmp_path / 's.pth')
    model = distil(
        detector(), student_checkpoint=path, terms=dict(kd=dict(type='LogitKD')),
        teacher=dict(config=detector(), checkpoint=path, classes='same'),
    )  # fmt: skip
    losses = model.loss(*det_batch(model))
    assert losses['kd.loss_cls'] == 0 and losses['kd.loss_bbox'] < 1e-5


def test_mistakes_are_one_line(tmp_path):
    other = save(plain(detector(width=16)), tmp_path / 'wide.pth')
    part = plain(detector()).state_dict()
    part.pop('neck.lateral_convs.0.conv.weight')
    partly = tmp_path / 'part.pth'
    torch.save(part, partly)
    cases = [
        (dict(student_checkpoint=str(tmp_path / 'none.pth')), 'none.pth'),
        (dict(student_checkpoint=other), 'student_checkpoint'),
        (dict(student_checkpoint=str(partly)), 'neck.lateral_convs.0.conv.weight'),
        (dict(inherit=['neck']), 'no teacher to inherit from'),
        (
            dict(inherit=['neck'], teacher=random_teacher(detector(channels=24))),
            r"'neck' does not fit: .*\(16,.*in the student, \(24,.*take it off the list",
        ),
        (
            dict(inherit=['nek'], teacher=random_teacher(detector())),
            "'nek' names no module of the student",
        ),
        (
            dict(inherit=['neck'], teacher=random_teacher(segmentor())),
            "'neck' names no module of the teacher",
        ),
    ]
    for keys, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            build(**keys)
        assert '\n' not in str(error.value)
