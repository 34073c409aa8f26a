"""Early predictions of two-stage detectors, on the student's own sampled proposals."""

import copy

import pytest
import torch
from mmdet.structures.bbox import bbox2roi
from toys import (
    det_batch,
    detector,
    distil,
    lively,
    norms_in_eval,
    plain,
    random_teacher,
    save,
    segmentor,
    total,
    two_stage,
)

from mmkd.families.two_stage_targets import RoIs

NAMES = ('cat', 'dog', 'bird')


def with_exit(student=None, teacher='random', **keys):
    terms = keys.pop('terms', None)
    if teacher == 'random':
        teacher = random_teacher(two_stage(width=12, channels=24))
    exit_cfg = dict(dict(type='RoIExit', tap='backbone[1:]'), **keys)
    return distil(
        student or two_stage(), teacher=teacher, exits=dict(e=exit_cfg), terms=terms, classes=NAMES
    )  # fmt: skip


def early(losses):
    return {n[2:]: v for n, v in losses.items() if n.startswith('e.')}


def sampled(model, batch):
    """Its losses, and what its first stage sampled."""
    kept, stock = [], type(model.roi_head).bbox_loss

    def bbox_loss(*args):
        kept.append(args[-1])
        return stock(model.roi_head, *args)

    model.roi_head.bbox_loss = bbox_loss
    losses = model.loss(*batch)
    del model.roi_head.bbox_loss
    return losses, kept[0]


@pytest.mark.parametrize('kind', [dict(masks=True), dict(stages=2)])
def test_a_light_head_on_the_students_own_rois(kind):
    model = with_exit(two_stage(**kind), random_teacher(two_stage(width=12, **kind)))
    (part,) = model.distillation.parts
    assert part.branch.num_classes == 3 and part.branch.reg_class_agnostic == (
        kind == dict(stages=2)
    )
    assert part.shapes == [f'{n}x{s}x{s} -> 16 channels' for n, s in ((16, 8), (32, 4), (64, 2))]
    losses = early(model.loss(*det_batch(model)))
    assert set(losses) == {f'{who}_loss_{what}' for who in ('gt', 'kd') for what in ('cls', 'bbox')}
    sum(losses.values()).backward()
    assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0
    for part_of in (model.roi_head, model.rpn_head, model.neck):
        assert all(p.grad is None for p in part_of.parameters())


def test_labels_are_those_of_the_students_sampling():
    """The main head's own losses where the exit has its pooled features and its weights."""
    model = with_exit(tap='neck', gt=1.0, kd=0.0, weight=0.25, teacher=None)
    (part,) = model.distillation.parts
    main = lively(model.roi_head.bbox_head, 5)
    assert not list(part.levels.parameters())
    part.branch = copy.deepcopy(main)
    batch = det_batch(model)
    losses, _ = sampled(model, batch)
    for name in ('loss_cls', 'loss_bbox'):
        assert losses[name] > 0
        torch.testing.assert_close(losses[f'e.gt_{name}'], losses[name] * 0.25, rtol=1e-6, atol=0)


def test_the_teachers_part_is_that_of_the_final_predictions():
    terms = dict(kd=dict(type='LogitKD', weight=0.25))
    model = with_exit(tap='neck', gt=0.0, kd=1.0, weight=0.25, terms=terms)
    lively(model.roi_head.bbox_head, 5)
    model.distillation.parts[1].branch = copy.deepcopy(model.roi_head.bbox_head)
    losses = model.loss(*det_batch(model))
    for name in ('loss_cls', 'loss_bbox'):
        assert losses[f'kd.{name}'] > 0
        torch.testing.assert_close(losses[f'e.kd_{name}'], losses[f'kd.{name}'], msg=name)


def test_a_roi_is_pooled_where_the_students_extractor_pools_it():
    for tap, scale in (('backbone[1:]', 56.0), ('backbone', 28.0)):
        part = with_exit(tap=tap).distillation.parts[0]
        assert part.extractor.finest_scale == scale
    assert part.extractor.featmap_strides == [4, 8, 16, 32]
    assert part.extractor.roi_layers[0].output_size == (3, 3)


def test_some_of_the_rois_of_each_image_with_their_share_of_positives():
    images = torch.tensor([0.0] * 8 + [1.0] * 3 + [2.0] * 4)
    boxes = torch.cat([images[:, None], torch.zeros(15, 4)], 1)
    labels = torch.tensor([0, 1, 0, 1, 3, 3, 3, 3, 2, 3, 3, 3, 3, 3, 3])
    rois = RoIs(boxes, labels, *torch.zeros(3, 15))
    rows = rois.spread(4)
    assert rows.tolist() == [0, 2, 4, 6, 8, 9, 10, 11, 12, 13, 14]
    assert rois.at(rows).labels.tolist() == [0, 0, 3, 3, 2, 3, 3, 3, 3, 3, 3]
    assert rois.at(torch.zeros(0, dtype=torch.long)).spread(4).tolist() == []


def test_how_many_rois_is_the_users_choice():
    model = with_exit(samples=2)
    seen = []
    (part,) = model.distillation.parts
    part.extractor.register_forward_pre_hook(lambda m, args: seen.append(args[1]))
    losses, results = sampled(model, det_batch(model))
    rois = bbox2roi([x.priors for x in results])
    assert len(rois) > 8 and len(seen[0]) == 4
    halves = [(len(x.priors)) // 2 for x in results]
    first = len(results[0].priors)
    expected = rois[[0, halves[0], first, first + halves[1]]]
    assert torch.equal(seen[0], expected)
    assert all(x.isfinite() for x in early(losses).values())


def test_weight_and_switches_scale_their_losses():
    found = []
    for keys in (dict(weight=1.0, gt=1.0, kd=1.0), dict(weight=0.5, gt=0.1, kd=3.0)):
        model = with_exit(**keys)
        torch.manual_seed(3)
        found.append(early(model.loss(*det_batch(model))))
    for name, factor in (('gt_loss_cls', 0.05), ('kd_loss_cls', 1.5), ('kd_loss_bbox', 1.5)):
        torch.testing.assert_close(found[1][name], found[0][name] * factor)


def test_feature_switch_is_the_feature_term():
    terms = dict(f=dict(type='FeatureKD', tap='backbone[1:]', weight=0.25 * 0.2))
    teacher = random_teacher(two_stage())
    model = with_exit(gt=0.0, kd=0.0, feat=0.2, terms=terms, teacher=teacher)
    losses = model.loss(*det_batch(model))
    assert set(early(losses)) == {'feat_loss'}
    torch.testing.assert_close(losses['e.feat_loss'], losses['f.loss'])


def test_labels_alone_need_no_teacher():
    model = with_exit(teacher=None, gt=1.0, kd=0.0)
    assert set(early(model.loss(*det_batch(model)))) == {'gt_loss_cls', 'gt_loss_bbox'}


def test_a_student_that_is_its_own_teacher():
    model = with_exit(teacher='self', tap='neck', gt=0.0, kd=1.0)
    lively(model.roi_head.bbox_head, 5)
    (part,) = model.distillation.parts
    part.branch = copy.deepcopy(model.roi_head.bbox_head)
    losses = early(model.loss(*det_batch(model)))
    assert set(losses) == {'kd_loss_cls', 'kd_loss_bbox'}
    assert losses['kd_loss_cls'] == 0 and losses['kd_loss_bbox'].abs() < 1e-5
    torch.nn.init.zeros_(part.branch.fc_cls.weight)
    model.loss(*det_batch(model))['e.kd_loss_cls'].backward()
    assert model.roi_head.bbox_head.fc_cls.weight.grad is None
    assert part.branch.fc_cls.weight.grad.abs().sum() > 0


def test_images_without_objects():
    model = with_exit()
    losses = model.loss(*det_batch(model, boxes=[[], []]))
    assert losses['e.gt_loss_cls'] > 0 and losses['e.kd_loss_cls'] > 0
    assert losses['e.gt_loss_bbox'] == 0
    total(losses).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name


def test_weight_0_leaves_weights_and_the_random_stream_alone():
    cfg = two_stage()
    states = []
    for model in (plain(cfg).train(), with_exit(cfg, weight=0.0)):
        norms_in_eval(model)
        torch.manual_seed(7)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            losses = model.loss(*det_batch(model))
            total(losses).backward()
            optimizer.step()
        assert not any(name.startswith('e.') for name in losses)
        states.append((model.state_dict(), torch.random.get_rng_state()))
    assert torch.equal(states[0][1], states[1][1])
    for name, value in states[0][0].items():
        assert torch.equal(value, states[1][0][name]), name


def test_only_shared_classes(tmp_path):
    cfg = two_stage(classes=4)
    path = save(lively(plain(cfg)), tmp_path / 't.pth')
    names = ('fox', 'dog', 'cat', 'cow')
    model = with_exit(
        gt=0.0, kd=1.0, teacher=dict(config=cfg, checkpoint=path, classes=names),
        kd_losses=dict(loss_bbox=None),
    )  # fmt: skip
    losses = early(model.loss(*det_batch(model)))
    assert set(losses) == {'kd_loss_cls'}
    losses['kd_loss_cls'].backward()
    grad = model.distillation.parts[0].branch.fc_cls.bias.grad
    assert grad[2] == 0 and grad[[0, 1, 3]].abs().min() > 0


def frozen():
    cfg = two_stage()
    cfg.backbone.frozen_stages = 2
    return cfg


@pytest.mark.parametrize(
    'keys, message',
    [
        (dict(student=detector()), 'RoIExit needs Faster.* not RetinaNet; use DenseExit'),
        (dict(tap=['backbone[1]', 'backbone[3]']), r'strides \[8, 32\]; tap stages each of which'),
        (dict(tap='backbone[2:0]'), 'points outside'),
        (dict(weight=[0.1, 0.1]), 'weight=.*must be one number for RoIExit'),
        (dict(samples=0), 'samples=0 must be a number of proposals >= 1'),
        (dict(kd_losses=dict(loss_rpn_cls=None)), "unknown 'loss_rpn_cls'; RoIExit has loss_cls"),
        (dict(adapter=None), '16 channels|channels, the head 16, and adapter=None'),
        (dict(teacher=None), 'there is none; .*gt=1, kd=0, feat=0'),
        (dict(teacher=random_teacher(detector())), 'two-stage detector, the teacher RetinaNet is'),
        (dict(student=frozen()), 'no gradient: a frozen stage'),
    ],
)
def test_mistakes_are_one_line(keys, message):
    with pytest.raises(ValueError, match=message) as error:
        with_exit(**keys)
    assert "exit 'e'" in str(error.value) and '\n' not in str(error.value)


def test_a_segmentor_has_no_use_for_it():
    exits = dict(e=dict(type='RoIExit', tap='backbone[1:]', gt=1.0, kd=0.0))
    with pytest.raises(ValueError, match="exit 'e': RoIExit needs Faster"):
        distil(segmentor(), exits=exits)


@pytest.mark.parametrize('kind', ['DenseExit', 'CrossExit'])
def test_other_exits_say_that_they_do_not_apply(kind):
    message = dict(DenseExit='not FasterRCNN; .* RoIExit', CrossExit='the teacher must be')[kind]
    with pytest.raises(ValueError, match=f"exit 'e': .*{message}") as error:
        with_exit(type=kind)
    assert '\n' not in str(error.value)
