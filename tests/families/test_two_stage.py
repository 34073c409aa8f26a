"""Vanilla KD of Faster, Mask and Cascade R-CNN: on which RoIs, of which classes, over what."""

import gc
import math
import weakref

import pytest
import torch
from mmdet.models.losses.iou_loss import giou_loss
from mmdet.structures.bbox import bbox2roi
from toys import (
    det_batch,
    detector,
    distil,
    plain,
    random_teacher,
    save,
    segmentor,
    total,
    two_stage,
)

from mmkd.families import find_family
from mmkd.families.two_stage import TwoStage
from mmkd.losses import DKDLoss

NAMES = ('cat', 'dog', 'bird')
KD = dict(kd=dict(type='LogitKD'))
MODELS = {
    'faster': {},
    'mask': dict(masks=True),
    'cascade': dict(stages=3),
    'cascade-mask': dict(stages=2, masks=True),
}
BOXES = [[[8, 8, 40, 44], [30, 20, 62, 50]], [[20, 4, 60, 30]]]


GAINS = dict(rpn_conv=1.0, rpn_cls=1.0, rpn_reg=0.2, fc_cls=3.0, fc_reg=2.0, conv_logits=3.0)


def modest(model, seed=0):
    """Fresh weights whose last layers tell things apart without leaving the images."""
    torch.manual_seed(seed)
    model.init_weights()
    for name, module in model.named_modules():
        gain = GAINS.get(name.split('.')[-1])
        if gain is not None:
            torch.nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
    return model


def taught(tmp_path, student=None, teacher=None, terms=KD, names='same', **keys):
    """A Faster R-CNN (or another of :func:`two_stage`) taught by a wider one."""
    cfg = two_stage(**dict(dict(width=12, channels=24), **(teacher or {})))
    path = save(modest(plain(cfg), 1), tmp_path / 'teacher.pth')
    model = distil(
        two_stage(**(student or {})), terms=terms, classes=NAMES,
        teacher=dict(config=cfg, checkpoint=path, classes=names), **keys,
    )  # fmt: skip
    return modest(model, 2)


def run(model, batch):
    """Its losses, and by stage sampled boxes ``[R, 5]``, their labels, its classes and boxes."""
    heard, stock = [], type(model.roi_head).bbox_loss

    def bbox_loss(*args):
        results = stock(model.roi_head, *args)
        sampled = args[-1]
        labels = [torch.full((len(x.priors),), 3) for x in sampled]
        for label, x in zip(labels, sampled):
            label[: len(x.pos_priors)] = x.pos_gt_labels
        rois = bbox2roi([x.priors for x in sampled])
        heard.append((rois, torch.cat(labels), results['cls_score'], results['bbox_pred']))
        return results

    model.roi_head.bbox_loss = bbox_loss
    losses = model.loss(*batch)
    del model.roi_head.bbox_loss
    return losses, heard


def teacher_of(model):
    return model.distillation.teachers[None].model


def added(losses, owner='kd.'):
    return {n.removeprefix(owner): v for n, v in losses.items() if n.startswith(owner)}


def move(roi, delta, stds):
    """A box by the formula of Fast R-CNN."""
    x1, y1, x2, y2 = roi
    dx, dy, dw, dh = (d * s for d, s in zip(delta, stds))
    w, h = (x2 - x1) * math.exp(dw), (y2 - y1) * math.exp(dh)
    x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def by_hand(rois, labels, ours, theirs, own=(0, 1, 2), other=(0, 1, 2), agnostic=(False, False)):
    """Sums over RoIs of the class KL and of the weighted GIoU, and how many RoIs count."""
    kl, giou, count = 0.0, 0.0, 0
    for roi, label, *said in zip(rois.tolist(), labels.tolist(), *ours, *theirs):
        cls, box, their_cls, their_box = (x.tolist() for x in said)
        if label != 3 and label not in own:
            continue
        count += 1
        q = torch.tensor([*(cls[i] for i in own), cls[3]]).softmax(0).tolist()
        p = torch.tensor([*(their_cls[i] for i in other), their_cls[-1]]).softmax(0).tolist()
        kl += sum(a * math.log(a / b) for a, b in zip(p, q))
        best = own.index(label) if label != 3 else max(range(len(own)), key=lambda i: p[i])
        columns = [0 if one else i for one, i in zip(agnostic, (own[best], other[best]))]
        boxes = [
            torch.tensor([move(roi[1:], delta[4 * i : 4 * i + 4], (0.1, 0.1, 0.2, 0.2))])
            for delta, i in zip((box, their_box), columns)
        ]
        giou += p[best] * float(giou_loss(*boxes, reduction='sum'))
    return kl, giou, count


@torch.no_grad()
def said_by_teacher(model, batch, rois, stage=None):
    teacher = teacher_of(model)
    head, features = teacher.roi_head, teacher.extract_feat(batch[0])
    extractor, box_head = head.bbox_roi_extractor, head.bbox_head
    if stage is not None:
        extractor, box_head = extractor[stage], box_head[stage]
    return box_head(extractor(features[:3], rois))


@pytest.mark.parametrize('kind', ['mask', 'cascade'])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind, tmp_path):
    cfg = two_stage(**MODELS[kind])
    path = save(modest(plain(cfg)), tmp_path / 'same.pth')
    model = distil(
        cfg, terms=KD, student_checkpoint=path, classes=NAMES,
        teacher=dict(config=cfg, checkpoint=path, classes='same'),
    )  # fmt: skip
    losses = added(model.loss(*det_batch(model)))
    names = {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox'}
    assert set(losses) == names | ({'loss_mask'} if 'mask' in kind else set())
    for name, value in losses.items():
        assert abs(value.item()) < 2e-5, name


def test_classes_and_boxes_on_the_students_rois(tmp_path):
    model = taught(tmp_path)
    batch = det_batch(model, boxes=BOXES)
    losses, [(rois, labels, *ours)] = run(model, batch)
    assert 2 < int((labels < 3).sum()) < len(labels) - 2
    theirs = said_by_teacher(model, batch, rois)
    kl, giou, count = by_hand(rois, labels, ours, theirs)
    assert count == len(rois)
    assert losses['kd.loss_cls'].item() == pytest.approx(kl / count, rel=1e-4)
    assert losses['kd.loss_bbox'].item() == pytest.approx(giou / count, rel=1e-4)
    value = losses['kd.loss_cls'] + losses['kd.loss_bbox']
    value.backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0
    assert model.rpn_head.rpn_conv.weight.grad is None


def test_objectness_and_boxes_at_the_anchors(tmp_path):
    model = taught(tmp_path)
    batch = det_batch(model, boxes=BOXES)
    losses = model.loss(*batch)
    cls, box, where = [], [], []
    with torch.no_grad():
        for net in (model, teacher_of(model)):
            maps = net.rpn_head(net.extract_feat(batch[0]))
            cls.append(torch.cat([x.permute(0, 2, 3, 1).flatten() for x in maps[0]]))
            box.append(torch.cat([x.permute(0, 2, 3, 1).reshape(-1, 4) for x in maps[1]]))
        for level, x in enumerate(maps[0]):
            grid = model.rpn_head.prior_generator.single_level_grid_priors(
                x.shape[-2:], level, device='cpu'
            )
            where.append(grid.repeat(2, 1))
    anchors = torch.cat(where).tolist()
    q, p = (x.sigmoid() for x in cls)
    bce = -(p * q.log() + (1 - p) * (1 - q).log())
    count = p.sum()
    expected = ((p - q).abs() * bce).sum() / count
    torch.testing.assert_close(losses['kd.loss_rpn_cls'], expected, rtol=1e-4, atol=1e-6)
    boxes = [
        torch.tensor([move(a, d, [1.0] * 4) for a, d in zip(anchors, x.tolist())]) for x in box
    ]
    expected = (giou_loss(*boxes, reduction='none') * p).sum() / count
    torch.testing.assert_close(losses['kd.loss_rpn_bbox'], expected, rtol=1e-4, atol=1e-6)
    assert count > 1 and expected > 1e-2
    reached = torch.autograd.grad(
        losses['kd.loss_rpn_cls'], model.rpn_head.rpn_cls.weight, retain_graph=True
    )
    assert reached[0].abs().sum() > 0


def test_masks_of_the_labels_class(tmp_path):
    model = taught(tmp_path, dict(masks=True), dict(masks=True))
    batch = det_batch(model, boxes=BOXES)
    losses, [(rois, labels, *_)] = run(model, batch)
    rois, labels = rois[labels < 3], labels[labels < 3]
    sums = []
    with torch.no_grad():
        maps = [
            net.roi_head._mask_forward(net.extract_feat(batch[0]), rois)['mask_preds']
            for net in (model, teacher_of(model))
        ]
    for mine, other, label in zip(*maps, labels.tolist()):
        for z, t in zip(mine[label].flatten().tolist(), other[label].flatten().tolist()):
            q, p = (1 / (1 + math.exp(-x)) for x in (z, t))
            sums.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert len(sums) == len(rois) * 64 and len(rois) > 2
    assert losses['kd.loss_mask'].item() == pytest.approx(sum(sums) / len(sums), rel=1e-4)


def test_masks_of_another_size_are_resized_and_one_sided_masks_left_alone(tmp_path):
    cfg = two_stage(masks=True)
    cfg.roi_head.mask_roi_extractor.roi_layer.output_size = 2
    model = distil(two_stage(masks=True), terms=KD, classes=NAMES, teacher=random_teacher(cfg))
    assert model.loss(*det_batch(model))['kd.loss_mask'] > 0
    model = taught(tmp_path, dict(masks=True), {})
    assert 'kd.loss_mask' not in model.loss(*det_batch(model))


def test_only_shared_classes_by_name(tmp_path):
    names = ('fox', 'dog', 'cat', 'cow')
    model = taught(tmp_path, teacher=dict(classes=4), names=names)
    batch = det_batch(model, boxes=[[*BOXES[0], [2, 30, 34, 62]], BOXES[1]])
    losses, [(rois, labels, *ours)] = run(model, batch)
    assert (labels == 2).sum() > 0, 'a bird, which the teacher does not know, is among them'
    theirs = said_by_teacher(model, batch, rois)
    kl, giou, count = by_hand(rois, labels, ours, theirs, own=(0, 1), other=(2, 1))
    assert count == len(rois) - int((labels == 2).sum())
    assert losses['kd.loss_cls'].item() == pytest.approx(kl / count, rel=1e-4)
    assert losses['kd.loss_bbox'].item() == pytest.approx(giou / count, rel=1e-4)
    grad = torch.autograd.grad(losses['kd.loss_cls'], model.roi_head.bbox_head.fc_cls.bias)[0]
    assert grad[2] == 0 and grad[[0, 1, 3]].abs().min() > 0


def test_masks_of_a_class_that_the_teacher_lacks_are_not_taught(tmp_path):
    model = taught(
        tmp_path, dict(masks=True), dict(masks=True, classes=4), names=('fox', 'dog', 'cat', 'cow')
    )
    losses = model.loss(*det_batch(model, boxes=[[*BOXES[0], [2, 30, 34, 62]], BOXES[1]]))
    weight = model.roi_head.mask_head.conv_logits.weight
    grad = torch.autograd.grad(losses['kd.loss_mask'], weight)[0]
    assert grad[2].eq(0).all() and grad[0].abs().sum() > 0


class Labelled(torch.nn.Module):
    """Stands for DKD: keeps what it is given."""

    asks = ('label',)

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, student, teacher, mask=None, weight=None, **context):
        self.given.append((student, teacher, mask, context))
        return student.sum()


def test_labels_reach_a_loss_that_asks(tmp_path):
    terms = dict(kd=dict(type='LogitKD', loss_cls=dict(type=Labelled), loss_bbox=None))
    terms['dkd'] = dict(type='LogitKD', loss_cls=dict(type='DKDLoss'))
    model = taught(
        tmp_path, terms=terms, teacher=dict(classes=4), names=('fox', 'dog', 'cat', 'cow')
    )
    batch = det_batch(model, boxes=[[*BOXES[0], [2, 30, 34, 62]], BOXES[1]])
    losses, [(_, labels, *_)] = run(model, batch)
    (loss,) = (m for m in model.modules() if isinstance(m, Labelled))
    [(rows, theirs, mask, context)] = loss.given
    number = {0: 0, 1: 1, 2: -1, 3: 2}  # cat, dog, bird, background
    expected = torch.tensor([number[x] for x in labels.tolist()])
    assert set(expected.tolist()) == {-1, 0, 1, 2} and rows.shape == (len(labels), 3)
    assert set(context) == {'label'} and torch.equal(context['label'], expected)
    assert torch.equal(mask, (expected >= 0).float())
    value = DKDLoss()(rows, theirs, mask=mask, label=expected)
    assert value > 0 and torch.equal(losses['dkd.loss_cls'], value)


def test_a_cascade_learns_stage_by_stage(tmp_path):
    model = taught(tmp_path, dict(stages=3), dict(stages=3))
    batch = det_batch(model, boxes=BOXES)
    losses, heard = run(model, batch)
    expected = dict(loss_cls=0.0, loss_bbox=0.0)
    for stage, ((rois, labels, *ours), weight) in enumerate(zip(heard, (1.0, 0.5, 0.25))):
        theirs = said_by_teacher(model, batch, rois, stage)
        kl, giou, count = by_hand(rois, labels, ours, theirs, agnostic=(True, True))
        expected['loss_cls'] += weight * kl / count
        expected['loss_bbox'] += weight * giou / count
    assert not torch.equal(heard[0][0], heard[1][0])
    for name, value in expected.items():
        assert losses[f'kd.{name}'].item() == pytest.approx(value, rel=1e-4), name


def test_further_stages_of_the_longer_cascade_are_left_alone(tmp_path):
    model = taught(tmp_path, {}, dict(stages=3))
    batch = det_batch(model, boxes=BOXES)
    losses, [(rois, labels, *ours)] = run(model, batch)
    theirs = said_by_teacher(model, batch, rois, 0)
    kl, giou, count = by_hand(rois, labels, ours, theirs, agnostic=(False, True))
    assert losses['kd.loss_cls'].item() == pytest.approx(kl / count, rel=1e-4)
    assert losses['kd.loss_bbox'].item() == pytest.approx(giou / count, rel=1e-4)

    model = taught(tmp_path, dict(stages=3), {})
    losses, heard = run(model, batch)
    rois, labels, *ours = heard[0]
    theirs = said_by_teacher(model, batch, rois)
    kl, giou, count = by_hand(rois, labels, ours, theirs, agnostic=(True, False))
    assert losses['kd.loss_cls'].item() == pytest.approx(kl / count, rel=1e-4)
    heads = [head.fc_cls.weight for head in model.roi_head.bbox_head]
    grads = torch.autograd.grad(losses['kd.loss_cls'], heads, allow_unused=True)
    assert [g is None for g in grads] == [False, True, True]


def test_the_teachers_roi_heads_run_once_a_step_and_only_where_asked(tmp_path):
    exits = {
        name: dict(type='RoIExit', tap='backbone[1:]', gt=0.0, kd=1.0) for name in ('early', 'too')
    }
    model = taught(tmp_path, dict(masks=True), dict(masks=True), exits=exits)
    head, calls = teacher_of(model).roi_head, []
    for name in ('bbox_head', 'mask_head'):
        getattr(head, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    losses = model.loss(*det_batch(model))
    assert sorted(calls) == ['bbox_head', 'mask_head']
    assert losses['early.kd_loss_cls'] > 0 and losses['too.kd_loss_cls'] > 0
    calls.clear()
    off = dict(type='LogitKD', loss_cls=None, loss_bbox=None)
    model = taught(tmp_path, dict(masks=True), dict(masks=True), terms=dict(kd=off))
    teacher_of(model).roi_head.bbox_head.register_forward_hook(lambda *_: calls.append(1))
    assert set(added(model.loss(*det_batch(model)))) == {
        'loss_rpn_cls', 'loss_rpn_bbox', 'loss_mask',
    }  # fmt: skip
    assert not calls


def test_the_teachers_features_go_with_the_step(tmp_path):
    model = taught(tmp_path)
    kept = []
    teacher_of(model).neck.register_forward_hook(lambda m, a, out: kept.append(weakref.ref(out[0])))
    batch = det_batch(model)
    gc.disable()
    try:
        losses = model.loss(*batch)
        assert kept[0]() is None, 'only the garbage collector would free them'
    finally:
        gc.enable()
    total(losses).backward()


@pytest.mark.parametrize('kind', ['cascade-mask'])
def test_images_without_objects(kind, tmp_path):
    model = taught(tmp_path, MODELS[kind], MODELS[kind])
    losses = model.loss(*det_batch(model, boxes=[[], []]))
    own = added(losses)
    assert own['loss_cls'] > 0 and own['loss_rpn_cls'] > 0
    assert own['loss_mask'] == 0
    total(losses).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


def test_padding_and_ignored_boxes_do_not_teach_the_rpn(tmp_path):
    model = taught(tmp_path)
    outputs = []
    for layer in (model.rpn_head.rpn_cls, model.rpn_head.rpn_reg):
        layer.register_forward_hook(lambda m, a, out: out.retain_grad() or outputs.append(out))
    batch = det_batch(
        model, shapes=((64, 32), (64, 64)), boxes=[[[4, 4, 28, 40]], []],
        ignored=[[], [[0, 0, 64, 64]]],
    )  # fmt: skip
    losses = model.loss(*batch)
    (losses['kd.loss_rpn_cls'] + losses['kd.loss_rpn_bbox']).backward()
    assert len(outputs) == 6
    for out in outputs:
        half = out.shape[-1] // 2
        assert out.grad[0, :, :, half:].eq(0).all() and out.grad[1].eq(0).all()
        assert out.grad[0, :, :, :half].abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize('option', [dict(channels_last=True), dict(autocast='bfloat16')])
def test_a_teacher_that_is_run_cheaper_says_the_same(option, tmp_path):
    path = save(modest(plain(two_stage()), 4), tmp_path / 's.pth')
    values = []
    for keys in ({}, option):
        teacher = dict(config=two_stage(), checkpoint=path, classes='same', **keys)
        model = modest(distil(two_stage(), terms=KD, classes=NAMES, teacher=teacher), 2)
        torch.manual_seed(5)
        values.append(added(model.loss(*det_batch(model))))
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value, rtol=0.05, atol=1e-3, msg=name)


def test_scores_of_cells_are_objectness(tmp_path):
    terms = dict(f=dict(type='FeatureKD', tap='neck', region=dict(type='ConfidenceRegion')))
    model = taught(tmp_path, dict(channels=24), terms=terms)
    batch = det_batch(model)
    heard = model.distillation.teachers[None].run(*batch, set(), True)
    family = model.distillation.teachers[None].family
    for level, size in enumerate(((8, 8), (4, 4), (2, 2))):
        scores = family.cell_scores(teacher_of(model), heard.predictions.outputs, size)
        with torch.no_grad():
            maps = teacher_of(model).rpn_head(teacher_of(model).extract_feat(batch[0]))[0]
        expected = maps[level].sigmoid().amax(1, keepdim=True)
        torch.testing.assert_close(scores, expected)
        assert scores.shape == (2, 1, *size)
    assert 'scores' in family.gives
    assert model.loss(*batch)['f.loss'] > 0


def test_losses_are_overridden_weighted_and_dropped(tmp_path):
    half = dict(loss_cls=dict(type='KLDivergence', loss_weight=0.5))
    half['loss_rpn_bbox'] = dict(type='BoxKDLoss', loss_weight=0.5)
    half['loss_mask'] = dict(type='BinaryKLDivergence', loss_weight=0.5)
    terms = dict(
        kd=dict(type='LogitKD'),
        half=dict(type='LogitKD', **half),
        few=dict(type='LogitKD', loss_rpn_cls=None, loss_rpn_bbox=None, loss_bbox=None),
    )
    model = taught(tmp_path, dict(masks=True), dict(masks=True), terms)
    losses = model.loss(*det_batch(model))
    for name in ('loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask'):
        factor = 0.5 if name in half else 1.0
        torch.testing.assert_close(losses[f'half.{name}'], losses[f'kd.{name}'] * factor)
    assert set(added(losses, 'few.')) == {'loss_cls', 'loss_mask'}


def with_anchors(**anchors):
    cfg = two_stage()
    cfg.rpn_head.anchor_generator.update(anchors)
    return cfg


def sigmoid_heads():
    cfg = two_stage()
    cfg.roi_head.bbox_head.loss_cls.use_sigmoid = True
    return cfg


ONLY_ROIS = dict(type='LogitKD', loss_rpn_cls=None, loss_rpn_bbox=None)


@pytest.mark.parametrize(
    'student, teacher, term, message',
    [
        (two_stage(), detector('retina'), KD['kd'], 'two-stage detector, the teacher RetinaNet is'),
        (detector('retina'), two_stage(), KD['kd'], 'dense detector, the teacher FasterRCNN is'),
        (two_stage(), segmentor(), KD['kd'], 'two-stage detector, the teacher EncoderDecoder is'),
        (two_stage(), with_anchors(ratios=[0.5]), KD['kd'], 'of the RPNs, priors differ'),
        (two_stage(), with_anchors(ratios=[0.5, 1.0]), KD['kd'], '.*write loss_rpn_cls=None'),
        (two_stage(), with_anchors(strides=[4, 8, 16]), KD['kd'], r'strides .8, .* strides .4, 8'),
        (sigmoid_heads(), two_stage(), KD['kd'], 'Shared2FCBBoxHead does not classify by softmax'),
        (two_stage(), sigmoid_heads(), KD['kd'], 'Shared2FCBBoxHead does not classify by softmax'),
        (two_stage(), two_stage(), dict(KD['kd'], avg_factor='num_pos'), "argument 'avg_factor'"),
        (two_stage(), two_stage(), dict(KD['kd'], loss_mask=None), "argument 'loss_mask'; this"),
        (
            two_stage(), two_stage(), dict(KD['kd'], loss_bbox=dict(type=Labelled)),
            'loss_bbox: Labelled asks for label, which only loss_cls comes with',
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(student, teacher, term, message):
    with pytest.raises(ValueError, match=f"term 'kd': .*{message}") as error:
        distil(student, terms=dict(kd=term), teacher=random_teacher(teacher), classes=NAMES)
    assert '\n' not in str(error.value)


def test_rois_need_no_equal_anchors():
    teacher = random_teacher(with_anchors(ratios=[0.5], strides=[8, 16, 32]))
    model = distil(two_stage(), terms=dict(kd=ONLY_ROIS), teacher=teacher, classes=NAMES)
    assert set(added(model.loss(*det_batch(model)))) == {'loss_cls', 'loss_bbox'}


@pytest.mark.parametrize(
    'part',
    [
        dict(terms=dict(f=dict(type='FeatureKD', tap='neck', loss=dict(type='PKDLoss')))),
        dict(exits=dict(f=dict(type='SemanticExit', tap='backbone[1:]'))),
    ],
)
def test_a_retinanet_teaches_by_features_and_by_cells(part):
    teacher = random_teacher(detector('retina', width=12, channels=24))
    model = distil(two_stage(), teacher=teacher, classes=NAMES, **part)
    losses = added(model.loss(*det_batch(model)), 'f.')
    sum(losses.values()).backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('kind', ['cascade-mask'])
def test_a_checkpoint_is_the_student_and_predicts_as_stock(kind, tmp_path):
    exits = dict(e=dict(type='RoIExit', tap='backbone[1:]'))
    model = taught(tmp_path, MODELS[kind], MODELS[kind], exits=exits)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    total(model.loss(*det_batch(model))).backward()
    optimizer.step()
    stock = plain(two_stage(**MODELS[kind]))
    stock.load_state_dict(torch.load(save(model, tmp_path / 's.pth'))['state_dict'], strict=True)
    inputs, samples = det_batch(model)
    ours, theirs = (
        net.eval().predict(inputs.clone(), samples, rescale=False)[0].pred_instances
        for net in (model, stock)
    )
    assert len(ours) > 0 and torch.equal(ours.bboxes, theirs.bboxes)
    assert torch.equal(ours.scores, theirs.scores)


def test_without_labels_only_the_first_stage_is_taught():
    keys = dict(teacher=random_teacher(two_stage()), classes=NAMES, student_loss_weight=0)
    with pytest.raises(ValueError, match=r"term 'kd': it needs the labels.* sampled RoIs"):
        distil(two_stage(), terms=dict(kd=dict(ONLY_ROIS, loss_bbox=None)), **keys)
    term = dict(type='LogitKD', loss_cls=None, loss_bbox=None)
    model = distil(two_stage(), terms=dict(kd=term), **keys)
    losses = model.loss(*det_batch(model))
    assert set(losses) == {'kd.loss_rpn_cls', 'kd.loss_rpn_bbox'}
    total(losses).backward()
    assert model.rpn_head.rpn_conv.weight.grad.abs().sum() > 0


def test_which_detectors_are_known():
    assert all(type(find_family(plain(two_stage(**x)))) is TwoStage for x in MODELS.values())
    cfg = two_stage()
    cfg.roi_head.type = 'DynamicRoIHead'
    cfg.train_cfg.rcnn.dynamic_rcnn = dict(
        iou_topk=1, beta_topk=1, update_iter_interval=1, initial_iou=0.4, initial_beta=1.0
    )
    cfg.roi_head.bbox_head.loss_bbox = dict(type='SmoothL1Loss', beta=1.0)
    other = plain(cfg)
    assert type(find_family(other)) is not TwoStage
    assert 'no final predictions' in find_family(other).why_no_logits(other)
