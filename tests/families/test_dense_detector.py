"""Vanilla KD of dense detectors: boxes, class scores, one normaliser, and what is refused."""

import pytest
import torch
from mmdet.models.losses.iou_loss import giou_loss
from mmengine.config import ConfigDict
from torch.nn.functional import logsigmoid
from toys import det_batch, detector, distil, lively, plain, random_teacher, save, total

from mmkd.families.dense_heads import decode
from mmkd.terms.tap import Capture, Tap

KINDS = [
    pytest.param('retina', {}, id='retina'),
    pytest.param('fcos', {}, id='fcos'),
    pytest.param('fcos', dict(norm_on_bbox=False), id='fcos-exp'),
    pytest.param('atss', {}, id='atss'),
    pytest.param('gfl', {}, id='gfl'),
]
KD = dict(kd=dict(type='LogitKD'))


def modest(model, seed=0):
    """Lively weights with a box branch that predicts boxes of a sensible size."""
    lively(model, seed)
    for name, module in model.bbox_head.named_children():
        if name in ('retina_reg', 'conv_reg', 'atss_reg', 'gfl_reg'):
            module.weight.data *= 0.1
            if name == 'conv_reg':  # FCOS clamps at 0, where boxes have no area and GIoU no value
                module.bias.data += 1.0
    return model


def taught(kind, head, tmp_path, terms=KD, **keys):
    cfg = detector(kind, width=16, **head)
    path = save(modest(plain(cfg), 1), tmp_path / 'teacher.pth')
    model = distil(
        detector(kind, **head), terms=terms,
        teacher=dict(config=cfg, checkpoint=path, classes='same'), **keys,
    )  # fmt: skip
    modest(model, 2)
    return model


@pytest.mark.parametrize('kind, head', KINDS)
def test_decode_is_the_heads_own(kind, head):
    model = modest(plain(detector(kind, classes=1, **head))).eval()
    inputs, samples = det_batch(model)
    bbox_head = model.bbox_head
    with torch.no_grad():
        features = model.extract_feat(inputs)
        outputs = bbox_head(features)
        boxes = decode(bbox_head, list(outputs[1]), training=False)
        trained = decode(bbox_head, list(bbox_head.train()(features)[1]), training=True)
        bbox_head.eval()
        free = [dict(img_shape=(10**6, 10**6), scale_factor=(1.0, 1.0)) for _ in samples]
        results = bbox_head.predict_by_feat(
            *outputs, batch_img_metas=free, cfg=ConfigDict(nms_pre=10**4, score_thr=-1.0),
            rescale=False, with_nms=False,
        )  # fmt: skip
    torch.testing.assert_close(trained, boxes, rtol=1e-5, atol=1e-4)
    counts = [x.shape[-2] * x.shape[-1] * bbox_head.num_base_priors for x in outputs[0]]
    start, mine = 0, [[], []]
    for count, cls in zip(counts, outputs[0]):
        for image in range(2):
            rows = boxes[start : start + count]
            order = cls[image].permute(1, 2, 0).flatten().sigmoid().argsort(descending=True)
            mine[image].append(rows[order])
            start += count
    for image, result in enumerate(results):
        theirs = result.bboxes
        torch.testing.assert_close(torch.cat(mine[image]).clamp(min=0), theirs.clamp(min=0))
        assert (theirs[:, 2:] - theirs[:, :2]).max() > 4


@pytest.mark.parametrize('kind, head', KINDS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind, head, tmp_path):
    cfg = detector(kind, **head)
    path = save(modest(plain(cfg)), tmp_path / 'same.pth')
    model = distil(
        cfg, terms=KD, student_checkpoint=path,
        teacher=dict(config=cfg, checkpoint=path, classes='same'),
    )  # fmt: skip
    losses = {n: v for n, v in model.loss(*det_batch(model)).items() if n.startswith('kd.')}
    names = {'kd.loss_cls', 'kd.loss_bbox'}
    names |= {'kd.loss_centerness'} if kind in ('fcos', 'atss') else set()
    names |= {'kd.loss_dfl'} if kind == 'gfl' else set()
    assert set(losses) == names
    assert losses['kd.loss_cls'] == 0
    for name, value in losses.items():
        assert abs(value.item()) < 2e-5, name


def flat(maps, width):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, width) for x in maps])


@pytest.mark.parametrize('kind, head', KINDS)
def test_values_are_those_of_an_independent_computation(kind, head, tmp_path):
    model = taught(kind, head, tmp_path)
    inputs, samples = det_batch(model)
    losses = model.loss(inputs, samples)
    teacher = model.distillation.teachers[None].model
    with torch.no_grad():
        ours = model.bbox_head(model.extract_feat(inputs))
        theirs = teacher.bbox_head(teacher.extract_feat(inputs))
        target, logits = flat(theirs[0], 3), flat(ours[0], 3)
        p, q = target.sigmoid(), logits.sigmoid()
        score = p.amax(1)
        count = score.sum().clamp(min=1)
        bce = -(p * logsigmoid(logits) + (1 - p) * logsigmoid(-logits))
        cls = ((p - q).abs() * bce).sum() / count
        boxes = decode(model.bbox_head, list(ours[1]), training=True)
        targets = decode(teacher.bbox_head, list(theirs[1]), training=False)
        bbox = (giou_loss(boxes, targets, reduction='none') * score).sum() / count
    torch.testing.assert_close(losses['kd.loss_cls'], cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses['kd.loss_bbox'], bbox, rtol=1e-4, atol=1e-5)
    assert cls > 1e-3 and bbox > 1e-2
    if kind in ('fcos', 'atss'):
        target, logits = flat(theirs[2], 1)[:, 0], flat(ours[2], 1)[:, 0]
        p = target.sigmoid()
        kl = p * (logsigmoid(target) - logsigmoid(logits))
        kl += (1 - p) * (logsigmoid(-target) - logsigmoid(-logits))
        expected = (kl * score).sum() / count
        torch.testing.assert_close(losses['kd.loss_centerness'], expected, rtol=1e-4, atol=1e-5)
    if kind == 'gfl':
        p, q = (flat(x[1], 9).log_softmax(1) for x in (theirs, ours))
        kl = (p.exp() * (p - q)).sum(1).view(-1, 4).mean(1)
        expected = (kl * score).sum() / count
        torch.testing.assert_close(losses['kd.loss_dfl'], expected, rtol=1e-4, atol=1e-5)
    total(losses).backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('kind', ['retina', 'fcos', 'atss', 'gfl'])
def test_num_pos_divides_by_the_assigned_priors(kind, tmp_path):
    terms = dict(kd=dict(type='LogitKD'), pos=dict(type='LogitKD', avg_factor='num_pos'))
    model = taught(kind, {}, tmp_path, terms)
    inputs, samples = det_batch(model)
    with model.distillation.family.listen(model) as predictions:
        type(model).__mro__[2].loss(model, inputs, samples)
    (targets,) = predictions.targets.results['get_targets']
    labels = targets[1] if kind in ('atss', 'gfl') else targets[0]
    assigned = sum(int(((x >= 0) & (x < 3)).sum()) for x in labels)
    losses = model.loss(inputs, samples)
    heard = model.distillation.teachers[None].run(inputs, samples, set(), True)
    score = flat(heard.predictions.outputs['cls'], 3).sigmoid().amax(1).sum()
    ratio = score / assigned
    assert assigned > 1
    for name in ('loss_cls', 'loss_bbox'):
        torch.testing.assert_close(
            losses[f'pos.{name}'], losses[f'kd.{name}'] * ratio, rtol=1e-4, atol=1e-6
        )


def gradients_of(model, batch, owner='kd.'):
    taps = [Tap.parse('bbox_head[0]'), Tap.parse('bbox_head[1]')]
    capture = Capture(model, taps, 'student')
    with capture:
        losses = model.loss(*batch)
    value = sum(v for n, v in losses.items() if n.startswith(owner))
    maps = [x for tap in taps for x in capture.read(tap)]
    return value, torch.autograd.grad(value, maps)


@pytest.mark.parametrize('kind', ['retina', 'gfl'])
def test_padded_cells_and_ignored_boxes_teach_nothing(kind, tmp_path):
    model = taught(kind, {}, tmp_path)
    batch = det_batch(
        model, shapes=((64, 32), (64, 64)), boxes=[[[4, 4, 28, 40]], [[30, 30, 60, 60]]],
        ignored=[[], [[0, 0, 64, 16]]],
    )  # fmt: skip
    value, gradients = gradients_of(model, batch)
    for gradient in gradients:
        side = gradient.shape[-1]
        assert gradient[0, :, :, side // 2 :].eq(0).all()
        assert gradient[0, :, :, : side // 2].abs().sum(0).gt(0).all()
        ignored = max(side // 4, 1) if side > 2 else 1  # at stride 32 the centre row is at 16
        assert gradient[1, :, :ignored].eq(0).all()
        assert gradient[1, :, ignored:].abs().sum(0).gt(0).all()
    assert value.isfinite()


def test_an_image_without_boxes_is_taught_by_the_teacher_alone(tmp_path):
    for kind in ('retina', 'fcos', 'atss', 'gfl'):
        terms = dict(kd=dict(type='LogitKD'), pos=dict(type='LogitKD', avg_factor='num_pos'))
        model = taught(
            kind, {}, tmp_path, terms, exits=dict(e=dict(type='DenseExit', tap='neck'))
        )  # fmt: skip
        losses = model.loss(*det_batch(model, boxes=[[], []]))
        assert losses['kd.loss_cls'] > 0
        total(losses).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), (kind, name)


def test_a_batch_of_ignored_images_is_zero_with_a_whole_graph(tmp_path):
    model = taught('retina', {}, tmp_path)
    losses = model.loss(*det_batch(model, boxes=[[], []], ignored=[[[0, 0, 64, 64]]] * 2))
    value = losses['kd.loss_cls'] + losses['kd.loss_bbox']
    assert value == 0
    value.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.eq(0).all(), name


def test_losses_are_overridden_weighted_and_dropped(tmp_path):
    terms = dict(
        kd=dict(type='LogitKD'),
        half=dict(type='LogitKD', loss_cls=dict(type='KDQualityFocalLoss', loss_weight=0.5)),
        cls=dict(type='LogitKD', loss_cls=dict(type='BinaryKLDivergence'), loss_bbox=None),
    )
    model = taught('retina', {}, tmp_path, terms)
    losses = model.loss(*det_batch(model))
    torch.testing.assert_close(losses['half.loss_cls'], losses['kd.loss_cls'] * 0.5)
    torch.testing.assert_close(losses['half.loss_bbox'], losses['kd.loss_bbox'])
    assert 'cls.loss_bbox' not in losses and losses['cls.loss_cls'] > 0


def other_priors(**anchors):
    cfg = detector('retina')
    head = cfg['bbox_head']
    head['anchor_generator'] = dict(head['anchor_generator'], **anchors)
    return cfg


def other_coder():
    cfg = detector('retina')
    cfg['bbox_head']['bbox_coder'] = dict(cfg['bbox_head']['bbox_coder'], target_stds=[0.1] * 4)
    return cfg


@pytest.mark.parametrize(
    'teacher, message',
    [
        (other_priors(ratios=[1.0]), 'priors differ .student 4 anchors.*teacher 2 anchors'),
        (other_priors(octave_base_scale=8), 'priors differ'),
        (other_priors(strides=[4, 8, 16]), 'priors differ'),
        (other_priors(ratios=[0.25, 1.0]), 'priors differ'),
        (other_priors(ratios=[1.0, 0.5]), 'priors differ'),
        (other_coder(), r'box coders differ .*1\.0, .*0\.1'),
        (detector('fcos'), 'priors differ .*points'),
    ],
)
def test_what_cannot_be_compared_is_refused_for_logits_but_not_for_features(teacher, message):
    with pytest.raises(ValueError, match=f"term 'kd': {message}.*FeatureKD") as error:
        distil(detector('retina'), terms=KD, teacher=random_teacher(teacher))
    assert '\n' not in str(error.value)
    distil(
        detector('retina'), terms=dict(f=dict(type='FeatureKD', tap='neck')),
        teacher=random_teacher(teacher),
    )  # fmt: skip


def test_other_bins_are_refused():
    with pytest.raises(ValueError, match=r'box coders differ .*reg_max 8.*reg_max 4'):
        distil(detector('gfl'), terms=KD, teacher=random_teacher(detector('gfl', reg_max=4)))


def test_mistakes_are_one_line():
    for keys, message in (
        (dict(avg_factor='pos'), "avg_factor='pos'"),
        (dict(loss_dfl=dict(type='LDLoss')), "'loss_dfl'; this family has loss_bbox, loss_cls"),
        (dict(weight=[1.0, 2.0]), 'must be one number'),
    ):
        with pytest.raises(ValueError, match=message):
            distil(
                detector(), teacher=random_teacher(detector()),
                terms=dict(kd=dict(type='LogitKD', **keys)),
            )  # fmt: skip
