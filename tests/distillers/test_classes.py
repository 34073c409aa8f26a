"""Only classes that both models know by name are distilled."""

import copy

import pytest
import torch
import torch.nn.functional as F
from toys import det_batch, detector, distil, lively, plain, save, seg_batch, segmentor

from mmkd.distillers.classes import ClassMatch

OURS = ('zebra', 'bus', 'kite')
THEIRS = tuple(f'thing{i}' for i in range(80))
AT = dict(zebra=61, bus=5, kite=33)  # the teacher has them in another order
COCO_LIKE = tuple({v: k for k, v in AT.items()}.get(i, name) for i, name in enumerate(THEIRS))
KD = dict(kd=dict(type='LogitKD'))


def test_indices_are_aligned():
    match = ClassMatch.by_name(('a', 'b', 'c', 'd'), ('d', 'x', 'b'), 't')
    assert (match.ours, match.theirs, match.names) == ((1, 3), (2, 0), ('b', 'd'))
    x = torch.arange(4.0)[None]
    assert match.student(x, 1).tolist() == [[1.0, 3.0]]
    assert match.teacher(x[:, :3], 1).tolist() == [[2.0, 0.0]]


def test_all_of_the_students_classes_need_no_selection_on_its_side():
    match = ClassMatch.by_name(('a', 'b'), ('b', 'c', 'a'), 't')
    assert (match.ours, match.theirs) == (None, (2, 0))


@pytest.mark.parametrize('teacher', ['same', ('a', 'b'), ['a', 'b']])
def test_equal_lists_and_same_select_nothing(teacher):
    match = ClassMatch.by_name(['a', 'b'], teacher, 't')
    assert (match.ours, match.theirs, match.names) == (None, None, ('a', 'b'))


@pytest.mark.parametrize(
    'student, teacher, message',
    [
        (('a', 'b'), ('c', 'd'), 'no class in common; student has a, b .2., teacher has c, d .2.'),
        (('a', 'b'), None, r"names are nowhere.*teacher.classes=\(...\), or 'same'"),
        (None, ('a',), 'metainfo names no classes'),
    ],
)
def test_mistakes_are_one_line(student, teacher, message):
    with pytest.raises(ValueError, match=message) as error:
        ClassMatch.by_name(student, teacher, 't')
    assert '\n' not in str(error.value)


def restricted(model, cfg, names, rows):
    """A teacher whose classifier has the given rows of another's, in their order."""
    small = plain(cfg)
    state = copy.deepcopy(model.state_dict())
    for name, value in small.state_dict().items():
        if state[name].shape != value.shape:
            anchors = value.shape[0] // len(names)
            whole = state[name].unflatten(0, (anchors, -1))
            state[name] = whole[:, list(rows)].flatten(0, 1)
    small.load_state_dict(state)
    return small


def test_80_classes_teach_3_in_another_order(tmp_path):
    big = lively(plain(detector(classes=80)))
    small = restricted(big, detector(classes=3), OURS, [AT[name] for name in OURS])
    values = []
    for teacher, cfg, names in (
        (big, detector(classes=80), COCO_LIKE), (small, detector(classes=3), OURS),
    ):  # fmt: skip
        path = save(teacher, tmp_path / f'{len(names)}.pth', names)
        model = distil(
            detector(classes=3), OURS, teacher=dict(config=cfg, checkpoint=path), terms=KD,
            exits=dict(e=dict(type='DenseExit', tap='neck')),
        )  # fmt: skip
        lively(model.bbox_head, seed=3)
        lively(model.distillation, seed=4)
        losses = model.loss(*det_batch(model))
        values.append({n: v for n, v in losses.items() if n.startswith(('kd.', 'e.kd'))})
    assert set(values[0]) == {
        'kd.loss_cls', 'kd.loss_bbox', 'e.kd_loss_cls', 'e.kd_loss_bbox'
    }  # fmt: skip
    for name, value in values[0].items():
        assert value > 1e-3
        torch.testing.assert_close(value, values[1][name], msg=name)


def test_a_softmax_is_over_the_shared_classes_only(tmp_path):
    theirs = ('road', 'car', 'sky', 'tree', 'sea', 'hill')
    ours = ('tree', 'unknown', 'road', 'sky')
    teacher = lively(plain(segmentor(classes=6)))
    path = save(teacher, tmp_path / 'seg.pth', theirs)
    model = distil(
        segmentor(classes=4), ours, terms=KD,
        teacher=dict(config=segmentor(classes=6), checkpoint=path),
    )  # fmt: skip
    lively(model, seed=3)
    inputs, samples = seg_batch(model)
    with torch.no_grad():
        student = model.decode_head.forward(model.extract_feat(inputs))[:, [0, 2, 3]]
        teacher.eval()
        target = teacher.decode_head.forward(teacher.extract_feat(inputs))[:, [3, 0, 2]]
    rows = F.kl_div(student.log_softmax(1), target.log_softmax(1), log_target=True, reduction='sum')
    expected = rows / student[:, 0].numel()
    torch.testing.assert_close(model.loss(inputs, samples)['kd.loss_seg'], expected)
    assert expected > 0.01


def test_names_in_the_config_override_the_file(tmp_path):
    path = save(plain(detector(classes=3)), tmp_path / 't.pth', ('x', 'y', 'z'))
    teacher = dict(config=detector(classes=3), checkpoint=path)
    with pytest.raises(ValueError, match=r'no class in common.*zebra'):
        distil(detector(), OURS, teacher=teacher, terms=KD)
    model = distil(
        detector(), OURS, terms=KD, teacher=dict(teacher, classes=('kite', 'cup', 'zebra'))
    )
    assert model.distillation.teachers[None].match.names == ('zebra', 'kite')


def test_a_teacher_without_names_is_refused_however_many_classes_it_has(tmp_path):
    path = save(plain(detector(classes=3)), tmp_path / 't.pth')
    teacher = dict(config=detector(classes=3), checkpoint=path)
    with pytest.raises(ValueError, match='class names are nowhere'):
        distil(detector(), OURS, teacher=teacher, terms=KD)
    # features need no names
    distil(detector(), OURS, teacher=teacher, terms=dict(f=dict(type='FeatureKD', tap='neck')))
    model = distil(detector(), OURS, teacher=dict(teacher, classes='same'), terms=KD)
    assert model.distillation.teachers[None].match.theirs is None


@pytest.mark.parametrize('names', ['same', COCO_LIKE[:7]])
def test_as_many_names_as_classes(names):
    teacher = dict(config=detector(classes=80), checkpoint=None, classes=names)
    with pytest.raises(ValueError, match='predicts 80 classes but'):
        distil(detector(), OURS, teacher=teacher, terms=KD)
