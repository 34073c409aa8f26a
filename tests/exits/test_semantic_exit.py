"""What is where, taught by the teacher's highest scores in each cell."""

import copy

import pytest
import torch
import torch.nn.functional as F
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
    segmentor,
    total,
    two_stage,
)

from mmkd.families.query_detector import QueryDetector
from mmkd.terms.tap import Capture, Tap

KINDS = ('retina', 'fcos', 'atss', 'gfl')
STAGES = Tap.parse('backbone')


def with_exit(
    tmp_path=None, student=None, teacher=None, classes=None, names='same', terms=None, **keys
):  # fmt: skip
    teacher = teacher or detector(width=16, channels=24)
    if tmp_path is None:
        teacher = random_teacher(teacher, classes=names)
    else:
        path = save(lively(plain(teacher), 1), tmp_path / 'teacher.pth')
        teacher = dict(config=teacher, checkpoint=path, classes=names)
    exit_cfg = dict(dict(type='SemanticExit', tap='backbone[1:]', weight=1.0), **keys)
    model = distil(
        student or detector(), classes, teacher=teacher, exits=dict(e=exit_cfg), terms=terms
    )  # fmt: skip
    lively(model.distillation, 3)
    return model


def taught(model, batch, stages=slice(1, 4)):
    """The exit's loss, its gradients at the stages, and the stages."""
    capture = Capture(model, [STAGES], 'student')
    with capture:
        losses = {n: v for n, v in model.loss(*batch).items() if n.startswith('e.')}
    assert list(losses) == ['e.kd_loss_cls']
    maps = capture.read(STAGES)[stages]
    value = losses['e.kd_loss_cls']
    return value, torch.autograd.grad(value, maps, retain_graph=True), maps


def teacher_logits(model, inputs, classes):
    """By level, the highest over anchors ``[B, K, H, W]``."""
    teacher = model.distillation.teachers[None].model
    with torch.no_grad():
        levels = teacher.bbox_head(teacher.extract_feat(inputs))[0]
    highest = []
    for x in levels:
        anchors = x.split(classes, dim=1)
        best = anchors[0]
        for other in anchors[1:]:
            best = torch.maximum(best, other)
        highest.append(best)
    return highest


def teacher_scores(model, inputs, classes):
    return [x.sigmoid() for x in teacher_logits(model, inputs, classes)]


def quality_focal(logits, score):
    bce = -(score * logsigmoid(logits) + (1 - score) * logsigmoid(-logits))
    return (score - logits.sigmoid()).abs() * bce


@pytest.mark.parametrize('kind', KINDS)
def test_values_and_gradients_are_those_of_an_independent_computation(kind, tmp_path):
    model = with_exit(tmp_path, teacher=detector(kind, width=16, channels=24))
    batch = det_batch(model)
    value, found, stages = taught(model, batch)
    scores = teacher_scores(model, batch[0], 3)
    count = sum(s.amax(1).sum() for s in scores)
    assert count > 1
    expected = 0.0
    for branch, x, score in zip(model.distillation.parts[0].branches, stages, scores, strict=True):
        first, norm, _, last = branch
        hidden = F.conv2d(x, first.weight, padding=1)
        hidden = F.group_norm(hidden, 8, norm.weight, norm.bias).relu()
        logits = F.conv2d(hidden, last.weight, last.bias)
        assert logits.shape == score.shape
        expected = expected + quality_focal(logits, score).sum() / count
    assert expected > 1e-2
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    for mine, other in zip(found, torch.autograd.grad(expected, stages), strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def test_one_prior_a_cell_gives_the_familys_normaliser(tmp_path):
    model = with_exit(tmp_path, teacher=detector('fcos', width=16))
    heard = []
    family = model.distillation.teachers[None].family
    stock = family.cell_targets
    family.cell_targets = lambda *a: heard.append((a[-1], stock(*a))) or heard[-1][1]
    model.loss(*det_batch(model, shapes=((64, 32), (64, 64)), ignored=[[], [[0, 0, 64, 16]]]))
    lesson, targets = heard[0]
    torch.testing.assert_close(targets.count, lesson.targets(None).score.sum())
    assert targets.count > 1


def test_branches_that_say_what_the_teacher_says_have_nothing_to_learn(tmp_path):
    model = with_exit(tmp_path, tap='bbox_head[0]', student=detector('fcos'))
    part, (inputs, _) = model.distillation.parts[0], det_batch(model)
    part.branches = torch.nn.ModuleList([Spy(x) for x in teacher_logits(model, inputs, 3)])
    losses = model.loss(*det_batch(model))
    assert losses['e.kd_loss_cls'].abs() < 1e-7
    for spy in part.branches:
        spy.said.data.neg_()
    assert model.loss(*det_batch(model))['e.kd_loss_cls'] > 0.1


class Spy(torch.nn.Module):
    """Says the same whatever it is shown."""

    def __init__(self, said):
        super().__init__()
        self.said = torch.nn.Parameter(said)

    def forward(self, x):
        return self.said


def test_a_stage_without_a_level_of_its_stride_takes_the_nearest(tmp_path):
    teacher = detector('fcos', width=16, strides=[8, 16], regress_ranges=((-1, 64), (64, 1e8)))
    teacher['neck']['num_outs'] = 2
    teacher['neck']['end_level'] = 2
    model = with_exit(tmp_path, teacher=teacher, tap='backbone')
    batch = det_batch(model)
    eight, sixteen = teacher_scores(model, batch[0], 3)
    four = eight.repeat_interleave(2, 2).repeat_interleave(2, 3)
    rows = torch.maximum(sixteen[:, :, 0::2], sixteen[:, :, 1::2])
    thirty_two = torch.maximum(rows[..., 0::2], rows[..., 1::2])
    value, _, stages = taught(model, batch, slice(0, 4))
    scores = [four, eight, sixteen, thirty_two]
    count = sum(s.amax(1).sum() for s in scores)
    expected = sum(
        quality_focal(branch(x), score).sum() / count
        for branch, x, score in zip(model.distillation.parts[0].branches, stages, scores)
    )
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_priors_and_students_may_be_others(tmp_path):
    head = detector()['bbox_head']['anchor_generator']
    other = detector(width=16, channels=24)
    other['bbox_head']['anchor_generator'] = dict(head, ratios=[0.3, 1.0, 3.0])
    three = ('cat', 'dog', 'bird')
    for index, keys in enumerate(
        [
            dict(teacher=other),
            dict(student=two_stage(), classes=three),
            dict(student=detector('gfl')),
        ]
    ):
        model = with_exit(tmp_path, **keys)
        value, gradients, _ = taught(model, det_batch(model))
        assert value > 1e-2 and all(g.abs().sum() > 0 for g in gradients), index


def test_classes_are_matched_by_name_in_any_order(tmp_path):
    names = ('fox', 'dog', 'cat', 'cow')
    model = with_exit(
        tmp_path, teacher=detector(width=16, classes=4), names=names,
        classes=('cat', 'dog', 'bird'),
    )  # fmt: skip
    part, batch = model.distillation.parts[0], det_batch(model)
    value, _, stages = taught(model, batch)
    scores = [s[:, [1, 2]] for s in teacher_scores(model, batch[0], 4)]  # dog and cat
    count = sum(s.amax(1).sum() for s in scores)
    logits = [branch(x)[:, [1, 2]] for branch, x in zip(part.branches, stages)]
    expected = sum(quality_focal(x, s).sum() for x, s in zip(logits, scores)) / count
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    value.backward()
    for branch in part.branches:
        assert branch[3].bias.grad[[0, 3]].eq(0).all() and branch[3].bias.grad[[1, 2]].ne(0).all()


def test_padded_cells_and_ignored_boxes_are_out(tmp_path):
    model = with_exit(tmp_path)
    outputs = []
    for branch in model.distillation.parts[0].branches:
        branch.register_forward_hook(lambda m, a, out: outputs.append(out))
    batch = det_batch(
        model, shapes=((64, 32), (64, 64)), boxes=[[[4, 4, 28, 40]], []],
        ignored=[[], [[0, 0, 64, 64]]],
    )  # fmt: skip
    value, _, _ = taught(model, batch)
    gradients = torch.autograd.grad(value, outputs)
    scores = teacher_scores(model, batch[0], 3)
    count = expected = 0.0
    for x, score, gradient in zip(outputs, scores, gradients, strict=True):
        half = x.shape[-1] // 2
        assert gradient[0, :, :, half:].eq(0).all() and gradient[1].eq(0).all()
        assert gradient[0, :, :, :half].abs().sum(0).gt(0).all()
        count = count + score[0, :, :, :half].amax(0).sum()
        expected = expected + quality_focal(x, score)[0, :, :, :half].sum()
    torch.testing.assert_close(value, expected / count, rtol=1e-5, atol=1e-6)


def test_a_finer_level_gives_nothing_from_its_padded_cells(tmp_path):
    teacher = detector('fcos', width=16, strides=[8], regress_ranges=((-1, 1e8),))
    teacher['neck'].update(num_outs=1, end_level=1)
    model = with_exit(tmp_path, teacher=teacher, tap='backbone[2]')
    batch = det_batch(model, shapes=((64, 40), (64, 64)))
    (eight,) = teacher_scores(model, batch[0], 3)
    eight[0, :, :, 5:] = 0  # columns from pixel 40 on; the cell at pixels 32 to 48 is half inside
    sixteen = F.max_pool2d(eight, 2)
    value, _, stages = taught(model, batch, slice(2, 3))
    logits = model.distillation.parts[0].branches[0](stages[0])
    expected = quality_focal(logits, sixteen)
    expected = expected[0, :, :, :3].sum() + expected[1].sum()
    torch.testing.assert_close(value, expected / sixteen.amax(1).sum(), rtol=1e-5, atol=1e-6)


def test_an_image_that_is_all_ignored_is_zero_with_a_whole_graph(tmp_path):
    model = with_exit(tmp_path)
    value = model.loss(*det_batch(model, boxes=[[], []], ignored=[[[0, 0, 64, 64]]] * 2))
    value = value['e.kd_loss_cls']
    value.backward()
    assert value == 0
    assert all(p.grad.eq(0).all() for p in model.distillation.parameters())


def test_weights_schedule_and_loss(tmp_path):
    batch = det_batch(with_exit())
    values = {}
    for name, keys in dict(
        plain=dict(),
        one=dict(weight=[1.0, 0.0, 0.0]),
        rest=dict(weight=[0.0, 1.0, 1.0]),
        late=dict(schedule=dict(begin=150)),
        other=dict(loss=dict(type='BinaryKLDivergence')),
    ).items():
        model = with_exit(tmp_path, **keys)
        values[name] = taught(model, batch)[0] if name in ('plain', 'late', 'other') else (
            model.loss(*batch)['e.kd_loss_cls']
        )  # fmt: skip
    torch.testing.assert_close(values['one'] + values['rest'], values['plain'])
    torch.testing.assert_close(values['late'], values['plain'] * 0.51)
    assert values['other'] > 0 and values['other'] != values['plain']


def test_the_branches_start_from_nothing_to_see():
    model = distil(
        detector(), teacher=random_teacher(detector(width=16, channels=24)),
        exits=dict(e=dict(type='SemanticExit', tap='backbone[1:]')),
    )  # fmt: skip
    part = model.distillation.parts[0]
    assert [branch[0].out_channels for branch in part.branches] == [24] * 3
    assert part.shapes == [f'{n}x{s}x{s} -> 3 classes' for n, s in ((16, 8), (32, 4), (64, 2))]
    for branch in part.branches:
        score = branch(torch.randn(2, branch[0].in_channels, 4, 4)).sigmoid()
        assert score.min() > 0.005 and score.max() < 0.02
    assert with_exit(channels=12).distillation.parts[0].branches[0][0].out_channels == 12


@pytest.mark.parametrize('tap, stages', [('backbone', 3), ('neck', 3), ('encoder', 3)])
def test_a_query_based_student_with_a_dense_teacher(tap, stages, tmp_path):
    model = with_exit(tmp_path, student=query_detector('deformable'), tap=tap, classes=ANIMALS[:3])
    part, batch = model.distillation.parts[0], det_batch(model)
    value = model.loss(*batch)['e.kd_loss_cls']
    value.backward()
    assert value > 1e-2 and len(part.branches) == stages
    assert all(branch[0].weight.grad.abs().sum() > 0 for branch in part.branches)
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def test_the_encoder_of_a_query_based_student_is_read_as_maps(tmp_path):
    model = with_exit(tmp_path, student=query_detector('dino'), tap='encoder', classes=ANIMALS[:3])
    part, batch = model.distillation.parts[0], det_batch(model, shapes=((64, 48), (64, 64)))
    seen = []
    for branch in part.branches:
        branch.register_forward_hook(lambda m, a, out: seen.append(a[0]))
    encoder = Tap.parse('encoder')
    capture = Capture(model, [encoder], 'student')
    with capture:
        model.loss(*batch)
    (tokens,) = capture.read(encoder)
    first = 0
    for x, side in zip(seen, (8, 4, 2), strict=True):
        assert x.shape[2:] == (side, side)
        for row, column in ((0, 0), (side - 1, 1), (1, side - 1)):
            at = first + row * side + column
            assert torch.equal(x[:, :, row, column], tokens[:, at])
        first += side * side
    assert first == tokens.shape[1]


def test_a_dino_teaches_a_dense_student_by_its_encoder(tmp_path):
    teacher = query_detector('dino', width=16, embed=24)
    model = with_exit(tmp_path, teacher=teacher)
    batch = det_batch(model, ignored=[[], [[0, 0, 64, 20]]])
    dino = model.distillation.teachers[None].model
    heard = []
    branch = dino.bbox_head.cls_branches[dino.decoder.num_layers]
    hook = branch.register_forward_hook(lambda m, a, out: heard.append(out))
    with torch.no_grad():
        dino.predict(*copy.deepcopy(batch), rescale=False)
    hook.remove()
    value, _, stages = taught(model, batch)
    first, count, expected = 0, 0.0, 0.0
    for x, part in zip(stages, model.distillation.parts[0].branches, strict=True):
        side = x.shape[-1]
        scores = heard[0][:, first : first + side**2].sigmoid().mT.unflatten(-1, (side, side))
        first += side**2
        centres = (torch.arange(side) + 0.5) * (64 / side)
        taken = torch.ones(2, 1, side, side)
        taken[1, :, centres <= 20] = 0
        count = count + (scores.amax(1, keepdim=True) * taken).sum()
        expected = expected + (quality_focal(part(x), scores) * taken).sum()
    assert first == heard[0].shape[1] and count > 1
    torch.testing.assert_close(value, expected / count, rtol=1e-5, atol=1e-6)


def test_cells_where_a_dino_proposes_no_box_teach_nothing():
    """On 1024 pixels the cells of stride 8 whose centre is within 1% of an edge."""
    model = plain(query_detector('dino')).eval()
    inputs, samples = det_batch(model, shapes=((64, 1024),), boxes=[[]])
    with torch.no_grad():
        finest = QueryDetector(model).forward(model, inputs, samples).outputs['cls'][0]
    lowest = (finest.amax(1) < -1e30)[0]
    expected = torch.zeros(8, 128, dtype=torch.bool)
    expected[:, [0, 127]] = True  # centres at pixels 4 and 1020 of 1024: 0.4% and 99.6%
    assert torch.equal(lowest, expected)


def step(model):
    torch.manual_seed(7)
    losses = model.loss(*det_batch(model))
    total(losses).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, torch.random.get_rng_state()


def test_weight_0_leaves_gradients_and_the_random_stream_alone():
    cfg = detector(backbone=dict(norm_eval=False))
    stock, model = plain(cfg).train(), with_exit(student=cfg, weight=0.0)
    assert not any(p.requires_grad for p in model.distillation.parameters())
    (ours, mine, stream), (theirs, other, stock_stream) = step(model), step(stock)
    assert torch.equal(stream, stock_stream) and ours.keys() == theirs.keys()
    assert mine.keys() == other.keys() and all(torch.equal(mine[n], other[n]) for n in mine)


def test_a_copy_keeps_branches_and_no_teacher(tmp_path):
    model = with_exit(tmp_path)
    model.loss(*det_batch(model))
    twin = copy.deepcopy(model)
    assert twin.distillation.teachers is None
    mine, other = (m.distillation.state_dict() for m in (model, twin))
    assert mine and all(torch.equal(mine[n], other[n]) for n in mine)
    assert not any('distillation' in name for name in model.state_dict())


@pytest.mark.parametrize(
    'keys, message',
    [
        (dict(weight=[0.1, 0.1]), '2 weights for 3 tensors'),
        (dict(gt=0.5), "unknown argument 'gt'; it has tap, channels, loss"),
        (dict(loss=dict(type='KDQualityFocalLos')), "unknown type 'KDQualityFocalLos'"),
        (dict(tap='neck.fpn_convs'), 'never fires; a ModuleList'),
        (dict(student=detector(backbone=dict(frozen_stages=2))), 'no gradient: a frozen stage'),
        (dict(student=segmentor()), 'SemanticExit needs a detector, not EncoderDecoder; use Seg'),
        (dict(teacher=segmentor(classes=3)), 'teacher must be .*EncoderDecoder has none'),
        (
            dict(teacher=query_detector('twostage', layers=1)),
            "teacher must be a RetinaNet, .*DeformableDETR's encoder tells objects from background",
        ),
        (
            dict(teacher=query_detector('dab')),
            'teacher must be .* or DINO .*DABDETR has no encoder that classifies its cells',
        ),
        (
            dict(teacher=two_stage()),
            "teacher must be a RetinaNet, .*FasterRCNN's RPN tells objects from background",
        ),
    ],
)
def test_mistakes_are_one_line(keys, message):
    with pytest.raises(ValueError, match=message) as error:
        with_exit(**keys)
    assert "exit 'e'" in str(error.value) and '\n' not in str(error.value)


def test_a_stage_must_be_a_map():
    cfg = two_stage()
    tap = 'roi_head.bbox_head.fc_cls'
    with pytest.raises(ValueError, match=r"exit 'e': stages must be \[B, C, H, W\] maps, not \("):
        with_exit(student=cfg, classes=('cat',), tap=tap)


def test_without_a_teacher():
    exits = dict(e=dict(type='SemanticExit', tap='backbone[1:]'))
    with pytest.raises(ValueError, match=r"exit 'e': .* give teacher=dict\(\.\.\.\)$"):
        distil(detector(), exits=exits)
