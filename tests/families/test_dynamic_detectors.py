"""RTMDet, YOLOX, TOOD, VFNet, PAA and RepPoints: predictions, labels assigned once, whole runs."""

import copy
from functools import partial

import pytest
import torch
from dynamic_toys import KINDS, dynamic
from mmdet.models.dense_heads import ATSSHead
from mmdet.models.losses.iou_loss import giou_loss
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch.nn.functional import logsigmoid
from toys import det_batch, detector, distil, lively, plain, random_teacher, save, total

from mmkd.families.dense_heads import decode
from mmkd.testing import toy_config, train, write_toy_data

KD = dict(kd=dict(type='LogitKD'))
FAST = ('rtmdet', 'yolox', 'tood')


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


EACH = [k if k in FAST else slow(k) for k in KINDS]
BOX_LAYERS = ('rtm_reg', 'multi_level_conv_reg', 'tood_reg', 'vfnet_reg', 'vfnet_reg_refine')
BOX_LAYERS += ('atss_reg', 'reppoints_pts_init_out', 'reppoints_pts_refine_out')


@pytest.fixture(autouse=True)
def epoch():
    """TOOD asks the run which epoch it is; ``epoch(4)`` sets it."""
    hub = MessageHub.get_instance('dynamic_detectors')
    hub.update_info('epoch', 0)
    yield lambda number: hub.update_info('epoch', number)
    MessageHub._instance_dict.pop('dynamic_detectors')


def modest(model, seed=0):
    """Lively weights with a box branch that predicts boxes of a sensible size."""
    lively(model, seed)
    head, training = model.bbox_head, model.training
    for name, layer in head.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
        elif isinstance(layer, torch.nn.Conv2d) and name.split('.')[0] in BOX_LAYERS:
            layer.weight.data *= 0.1
            layer.bias.data += 1.0 if name.startswith('rtm_reg') else 0.0
        elif name == 'reg_offset_module.2':
            layer.weight.data *= 0.01
    with torch.no_grad():  # BatchNorm in eval mode then is what it was in training
        features = model.eval().extract_feat(det_batch(model)[0])
        head.train()(features)
    return model.train(training)


def taught(kind, tmp_path, terms=KD, **keys):
    cfg = dynamic(kind, width=16)
    path = save(modest(plain(cfg), 1), tmp_path / 'teacher.pth')
    teacher = dict(config=cfg, checkpoint=path, classes='same')
    return modest(distil(dynamic(kind), terms=terms, teacher=teacher, **keys), 2)


def flat(maps, width):
    return torch.cat([x.permute(0, 2, 3, 1).reshape(-1, width) for x in maps])


@pytest.mark.parametrize('kind', EACH)
def test_decode_is_the_heads_own(kind):
    model = modest(plain(dynamic(kind, classes=1))).eval()
    head, (inputs, samples) = model.bbox_head, det_batch(model)
    with torch.no_grad():
        features = model.extract_feat(inputs)
        outputs = head(features)
        boxes = decode(head, list(outputs[1]), training=False)
        head.train()
        for module in head.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        index = -1 if kind in ('vfnet', 'reppoints') else 1  # the refined ones
        trained = decode(head, list(head(features)[index]), training=True)
        head.eval()
        free = [dict(img_shape=(10**6, 10**6), scale_factor=(1.0, 1.0)) for _ in samples]
        args = outputs if kind == 'yolox' else outputs[:2]
        if kind == 'paa':  # which has no way without NMS but its parent's
            head.predict_by_feat = partial(ATSSHead.predict_by_feat, head)
            head._predict_by_feat_single = partial(ATSSHead._predict_by_feat_single, head)
            head._bbox_post_process = partial(ATSSHead._bbox_post_process, head)
        results = head.predict_by_feat(
            *args, batch_img_metas=free, rescale=False, with_nms=False,
            cfg=ConfigDict(nms_pre=10**4, score_thr=-1.0),
        )  # fmt: skip
    torch.testing.assert_close(trained, boxes, rtol=1e-5, atol=1e-4)
    counts = [x.shape[-2] * x.shape[-1] for x in outputs[0]]
    levels = boxes.split([n * 2 for n in counts])
    for image, result in enumerate(results):
        theirs = result.bboxes
        mine = torch.cat([x.view(2, -1, 4)[image] for x in levels])
        if kind not in ('yolox', 'tood'):
            mine, theirs = mine.clamp(min=0), theirs.clamp(min=0)
        assert len(mine) == len(theirs) and mine.unique(dim=0).shape[0] > 40
        gaps = torch.cdist(
            mine.double(), theirs.double(), compute_mode='donot_use_mm_for_euclid_dist'
        )
        assert gaps.amin(0).max() < 1e-3 and gaps.amin(1).max() < 1e-3


@pytest.mark.parametrize('kind', EACH)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind, tmp_path):
    cfg = dynamic(kind)
    path = save(modest(plain(cfg)), tmp_path / 'same.pth')
    model = distil(
        cfg, terms=KD, student_checkpoint=path,
        teacher=dict(config=cfg, checkpoint=path, classes='same'),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    losses = {n: v for n, v in model.loss(*det_batch(model)).items() if n.startswith('kd.')}
    names = {'kd.loss_cls', 'kd.loss_bbox'}
    names |= {'kd.loss_obj'} if kind == 'yolox' else {'kd.loss_iou'} if kind == 'paa' else set()
    assert set(losses) == names
    for name, value in losses.items():
        assert abs(value.item()) < 2e-5, name


def by_hand(kind, model, inputs):
    """The final predictions: class logits, boxes, and what there is besides, flat."""
    head = model.bbox_head
    out = head(model.extract_feat(inputs))
    index = 2 if kind in ('vfnet', 'reppoints') and head.training else 1
    logits = flat(out[0], 3)
    if kind == 'tood':
        logits = (logits / (1 - logits)).log()
    besides = flat(out[2], 1)[:, 0] if kind in ('yolox', 'paa') else None
    return logits, decode(head, list(out[index]), head.training), besides


def kl(target, logits):
    p = target.sigmoid()
    return p * (logsigmoid(target) - logsigmoid(logits)) + (1 - p) * (
        logsigmoid(-target) - logsigmoid(-logits)
    )


@pytest.mark.parametrize('kind', EACH)
def test_values_are_those_of_an_independent_computation(kind, tmp_path):
    model = taught(kind, tmp_path)
    inputs, samples = det_batch(model)
    losses = model.loss(inputs, samples)
    teacher = model.distillation.teachers[None].model
    with torch.no_grad():
        logits, boxes, ours = by_hand(kind, model, inputs)
        target, targets, theirs = by_hand(kind, teacher, inputs)
        p, q = target.sigmoid(), logits.sigmoid()
        score = p.amax(1) * (theirs.sigmoid() if kind == 'yolox' else 1)
        count = score.sum().clamp(min=1)
        if kind == 'yolox':
            cls = (kl(target, logits) * theirs.sigmoid()[:, None]).sum() / count
        else:
            bce = -(p * logsigmoid(logits) + (1 - p) * logsigmoid(-logits))
            cls = ((p - q).abs() * bce).sum() / count
        bbox = (giou_loss(boxes, targets, reduction='none') * score).sum() / count
        expected = dict(loss_cls=cls, loss_bbox=bbox)
        if kind == 'yolox':
            expected['loss_obj'] = kl(theirs, ours).sum() / count
        if kind == 'paa':
            expected['loss_iou'] = (kl(theirs, ours) * score).sum() / count
    for name, value in expected.items():
        assert value > 1e-3, name
        torch.testing.assert_close(losses[f'kd.{name}'], value, rtol=1e-4, atol=1e-5, msg=name)
    total(losses).backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0


CASES = [(kind, 0) for kind in FAST] + [('tood', 4), ('yolox', 1)]  # YOLOX's L1 loss is on then
CASES += [slow(k, 0) for k in KINDS if k not in FAST]


def with_exit(kind, setting, epoch, **keys):
    epoch(setting)
    exit_cfg = dict(type='DenseExit', tap='neck', gt=0.5, kd=0.0, weight=0.25, **keys)
    model = distil(dynamic(kind), exits=dict(e=exit_cfg))
    if kind == 'yolox':
        model.bbox_head.use_l1 = bool(setting)  # as mmdet's hook does
    modest(model, 5)
    branch = model.distillation.parts[0].branch
    branch.load_state_dict(model.bbox_head.state_dict())
    return model, branch


def summed(losses):
    return {n: sum(v) if isinstance(v, list) else v for n, v in losses.items()}


@pytest.mark.parametrize('kind, setting', CASES)
def test_an_exit_with_the_main_heads_logits_has_its_losses_and_assigns_nothing(
    kind, setting, epoch
):
    model, branch = with_exit(kind, setting, epoch)
    assert type(branch) is type(model.bbox_head)
    for module in branch.modules():
        for name in ('assigner', 'initial_assigner', 'alignment_assigner', 'refine_assigner'):
            if hasattr(module, name):
                setattr(module, name, None)
    losses = summed(model.loss(*det_batch(model)))
    names = [n for n in losses if n.startswith('loss_')]
    assert len(names) == (2 if kind in ('rtmdet', 'tood') else 4 if setting else 3)
    for name in names:
        assert losses[name] > 0, name
        torch.testing.assert_close(
            losses[f'e.gt_{name}'], losses[name] * 0.125, rtol=1e-5, atol=1e-7, msg=name
        )


@pytest.mark.parametrize('kind', EACH)
def test_exits_terms_and_scores_on_images_with_and_without_labels(kind, tmp_path):
    exits = dict(
        d=dict(type='DenseExit', tap='backbone[1:]'),
        s=dict(type='SemanticExit', tap='backbone[1:]'),
    )
    terms = dict(kd=dict(type='LogitKD', avg_factor='num_pos'))
    model = taught(kind, tmp_path, terms, exits=exits)
    for boxes in (None, [[], []]):
        losses = model.loss(*det_batch(model, boxes=boxes))
        model.zero_grad()
        total(losses).backward()
        for name, p in model.named_parameters():
            if 'moment_transfer' not in name:  # read by RepPoints' losses on labels alone
                assert p.grad is not None and p.grad.isfinite().all(), (kind, name)
        assert losses['s.kd_loss_cls'] > 0 and losses['kd.loss_cls'] > 0


def test_padded_cells_and_ignored_boxes_teach_no_objectness(tmp_path):
    model = taught('yolox', tmp_path)
    found = []
    for layer in model.bbox_head.multi_level_conv_obj:
        layer.register_forward_hook(lambda m, a, out: found.append(out))
    losses = model.loss(*det_batch(
        model, shapes=((64, 32), (64, 64)), boxes=[[[4, 4, 28, 40]], []],
        ignored=[[], [[0, 0, 64, 64]]],
    ))  # fmt: skip
    for gradient in torch.autograd.grad(losses['kd.loss_obj'], found):
        half = gradient.shape[-1] // 2
        assert gradient[0, :, :, half:].eq(0).all() and gradient[1].eq(0).all()
        assert gradient[0, :, :, :half].abs().min() > 0


def test_cells_of_yolox_score_classes_times_objectness(tmp_path):
    exits = dict(s=dict(type='SemanticExit', tap='backbone[1:]'))
    model = taught('yolox', tmp_path, None, exits=exits)
    inputs, samples = det_batch(model)
    heard = model.distillation.teachers[None].run(inputs, samples, set(), True)
    outputs, found = heard.predictions.outputs, {}
    family = model.distillation.teachers[None].family
    stock = family.cell_targets

    def cell_targets(*args):
        found['it'] = stock(*args)
        return found['it']

    family.cell_targets = cell_targets
    model.loss(inputs, samples)
    for cls, there, seen in zip(outputs['cls'], outputs['objectness'], found['it'].cls):
        torch.testing.assert_close(seen.sigmoid(), cls.sigmoid() * there.sigmoid())


@pytest.mark.parametrize('kind', ['tood', *(slow(k) for k in KINDS if k != 'tood')])
def test_images_alone_teach_by_predictions(kind, tmp_path):
    model = taught(kind, tmp_path, student_loss_weight=0)
    inputs, samples = det_batch(model)
    for sample in samples:
        del sample.gt_instances
    losses = model.loss(inputs, samples)
    assert {'kd.loss_cls', 'kd.loss_bbox'} <= set(losses) and all(n[:3] == 'kd.' for n in losses)
    total(losses).backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_num_pos_counts_what_the_head_counts(tmp_path):
    terms = dict(kd=dict(type='LogitKD'), pos=dict(type='LogitKD', avg_factor='num_pos'))
    for kind in KINDS:
        model = taught(kind, tmp_path, terms)
        inputs, samples = det_batch(model)
        with model.distillation.family.listen(model) as predictions:
            type(model).__mro__[2].loss(model, inputs, samples)
        results = predictions.targets.results
        if kind == 'yolox':
            count = sum(int(x[0].sum()) for x in results['_get_targets_single'])
        elif kind == 'paa':
            count = sum(int(((x[0] >= 0) & (x[0] < 3)).sum()) for x in results['paa_reassign'])
        else:
            labels = results['get_targets'][-1][0 if kind in ('vfnet', 'reppoints') else 1]
            count = sum(int(((x >= 0) & (x < 3)).sum()) for x in labels)
        heard = model.distillation.teachers[None].run(inputs, samples, set(), True)
        logits, _, besides = by_hand(kind, model.distillation.teachers[None].model, inputs)
        score = logits.sigmoid().amax(1) * (besides.sigmoid() if kind == 'yolox' else 1)
        assert count > 1 and len(heard.predictions.outputs['cls']) == 3
        losses = model.loss(inputs, samples)
        torch.testing.assert_close(
            losses['pos.loss_cls'], losses['kd.loss_cls'] * score.sum().detach() / count,
            rtol=1e-4, atol=1e-6,
        )  # fmt: skip


@pytest.mark.parametrize(
    'student, teacher, part',
    [
        slow('rtmdet', detector(), dict(type='SemanticExit', tap='backbone[1:]')),
        ('yolox', detector('atss'), dict(type='CrossExit', tap='backbone[1:]', start=1)),
        ('rtmdet', dynamic('yolox'), dict(type='SemanticExit', tap='backbone[1:]')),
        slow('rtmdet', dynamic('yolox'), dict(type='FeatureKD', tap='neck')),
        slow('yolox', dynamic('rtmdet'), dict(type='SemanticExit', tap='neck')),
        ('tood', detector('atss'), dict(type='LogitKD')),  # the same anchors
        slow('paa', dynamic('tood'), dict(type='LogitKD')),
    ],
)  # fmt: skip
def test_mixed_pairs(student, teacher, part):
    group = 'terms' if part['type'] in ('LogitKD', 'FeatureKD') else 'exits'
    model = distil(dynamic(student), teacher=random_teacher(teacher), **{group: dict(x=part)})
    losses = {n: v for n, v in model.loss(*det_batch(model)).items() if n.startswith('x.')}
    assert losses and all(value > 0 for value in losses.values())
    total(losses).backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'student, teacher, part, message',
    [
        ('rtmdet', 'yolox', dict(type='LogitKD'), 'coders differ .*teacher YOLOXHead'),
        ('tood', 'rtmdet', dict(type='LogitKD'), 'priors differ'),
        ('tood', 'tood', dict(type='CrossExit', tap='neck'), 'TOODHead runs its layers in a way'),
        ('rtmdet', 'rtmdet', dict(type='CrossExit', tap='neck'), 'RTMDetSepBNHead runs its layers'),
        ('rtmdet', 'rtmdet', dict(type='CrossKD'), "student's RTMDetSepBNHead runs its layers in"),
        ('rtmdet', 'rtmdet', dict(type='LogitKD', loss_obj=None), "'loss_obj'; this family has"),
    ],
)  # fmt: skip
def test_what_cannot_be_taught_is_one_line(student, teacher, part, message):
    group = 'exits' if part['type'] == 'CrossExit' else 'terms'
    with pytest.raises(ValueError, match=message) as error:
        distil(
            dynamic(student), teacher=random_teacher(dynamic(teacher)), **{group: dict(x=part)}
        )  # fmt: skip
    assert "'x'" in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('kind', ['yolox', slow('rtmdet'), slow('tood')])
def test_a_run_trains_validates_and_saves_the_plain_student(kind, tmp_path):
    root = write_toy_data(tmp_path / 'data')
    student = dynamic(kind, classes=2)
    model = dict(
        type='mmkd.Distiller',
        student=ConfigDict(copy.deepcopy(student)),
        teacher=dict(config=dynamic(kind, width=16, classes=2), checkpoint=None, classes='same'),
        terms=KD,
        exits=dict(e=dict(type='DenseExit', tap='backbone[1:]')),
    )
    cfg = toy_config(
        'det', root, tmp_path / 'run', model, 2, val_interval=2, save_interval=2, flip=False
    )  # fmt: skip
    runner, losses = train(cfg)
    assert {'kd.loss_cls', 'kd.loss_bbox', 'e.gt_loss_cls', 'e.kd_loss_bbox'} <= set(losses[-1])
    saved = torch.load(tmp_path / 'run' / 'iter_2.pth', weights_only=False)['state_dict']
    stock = MMENGINE_MODELS.build(dict(student))
    stock.load_state_dict(saved, strict=True)
    for name, value in runner.model.state_dict().items():
        assert torch.equal(stock.state_dict()[name], value), name
