"""Early predictions of segmentors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from toys import (
    detector,
    distil,
    lively,
    norms_in_eval,
    plain,
    random_teacher,
    save,
    seg_batch,
    segmentor,
    total,
)

TAP = 'backbone[1:3]'


def with_exit(student=None, teacher='random', terms=None, iteration=200, **keys):
    exit_cfg = dict(dict(type='SegExit', tap=TAP, dropout=0.0), **keys)
    teacher = random_teacher(segmentor(width=16)) if teacher == 'random' else teacher
    return distil(
        student or segmentor(), teacher=teacher, exits=dict(e=exit_cfg), terms=terms,
        iteration=iteration,
    )  # fmt: skip


def early(losses):
    return {n[2:]: v for n, v in losses.items() if n.startswith('e.')}


def test_one_branch_per_stage_predicts_every_class():
    model = with_exit(channels=12)
    branches = model.distillation.parts[0].branches
    stages = model.backbone(seg_batch(model)[0])[1:3]
    assert len(branches) == 2
    for branch, stage in zip(branches, stages):
        out = branch(stage)
        assert out.shape == (2, 4, *stage.shape[2:])
        assert branch[0].conv.out_channels == 12


def kl(ours, theirs):
    rows = theirs.softmax(1) * (theirs.log_softmax(1) - ours.log_softmax(1))
    return rows.sum(1).mean()


def by_hand(model, inputs, samples, weights):
    labels = torch.stack([s.gt_sem_seg.data[0] for s in samples])
    teacher = model.distillation.teachers[None].model
    with torch.no_grad():
        stages = model.backbone(inputs)[1:3]
        target = teacher.decode_head.forward(teacher.extract_feat(inputs))
        gt = kd = 0.0
        for weight, branch, stage in zip(weights, model.distillation.parts[0].branches, stages):
            logits = branch(stage)
            full = F.interpolate(logits, labels.shape[1:], mode='bilinear', align_corners=False)
            gt += weight * F.cross_entropy(full, labels)
            small = F.interpolate(logits, target.shape[2:], mode='bilinear', align_corners=False)
            kd += weight * kl(small, target)
    return gt, kd


def test_values_by_hand_with_a_weight_per_branch(tmp_path):
    path = save(lively(plain(segmentor(width=16))), tmp_path / 't.pth')
    teacher = dict(config=segmentor(width=16), checkpoint=path, classes='same')
    model = with_exit(weight=[0.1, 0.4], gt=0.7, kd=2.0, teacher=teacher)
    lively(model.distillation, 3)
    norms_in_eval(model)
    batch = seg_batch(model)
    gt, kd = by_hand(model, *batch, [0.1, 0.4])
    losses = early(model.loss(*batch))
    assert set(losses) == {'gt_loss_ce', 'kd_loss_seg'}
    torch.testing.assert_close(losses['gt_loss_ce'], gt * 0.7)
    torch.testing.assert_close(losses['kd_loss_seg'], kd * 2.0, rtol=1e-4, atol=1e-6)
    assert kd > 1e-3


def test_labels_by_the_main_heads_own_rules():
    model = with_exit(gt=1.0, kd=0.0, weight=1.0, teacher=None, tap='backbone[3]')
    batch = norms_in_eval(model) and seg_batch(model)
    branch = model.distillation.parts[0].branches
    logits = model.decode_head.forward(model.extract_feat(batch[0]))
    branch[0] = torch.nn.Sequential(Fixed(logits))
    losses = model.loss(*batch)
    torch.testing.assert_close(losses['e.gt_loss_ce'], losses['decode.loss_ce'], rtol=0, atol=0)


class Fixed(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


def test_warm_up_is_100_iterations_unless_told():
    model = norms_in_eval(with_exit(teacher=None, kd=0.0))
    batch, values = seg_batch(model), []
    for model.distillation.iteration in (0, 49, 99, 1000):
        values.append(model.loss(*batch)['e.gt_loss_ce'].item())
    assert values == pytest.approx([values[3] * f for f in (0.01, 0.5, 1.0, 1.0)], rel=1e-5)


def test_gradient_of_each_switch_reaches_the_tapped_stage_and_no_further():
    for switches in (dict(gt=1.0, kd=0.0), dict(gt=0.0, kd=1.0), dict(gt=0.0, kd=0.0, feat=1.0)):
        model = with_exit(tap='backbone[1]', **switches)
        value = sum(early(model.loss(*seg_batch(model))).values())
        value.backward()
        assert model.backbone.layer2[0].downsample[0].weight.grad.abs().sum() > 0, switches
        assert model.backbone.layer3[0].downsample[0].weight.grad is None, switches
        own = [p.grad for p in model.distillation.parameters() if p.grad is not None]
        assert own and all(g.isfinite().all() for g in own)


def test_feature_switch_is_the_feature_term():
    term = dict(f=dict(type='FeatureKD', tap=TAP, weight=0.25 * 0.5))
    model = norms_in_eval(with_exit(gt=0.0, kd=0.0, feat=0.5, terms=term))
    parts = model.distillation.named_parts()
    state = parts['terms.f'].adapters.state_dict()
    parts['exits.e'].feature.adapters.load_state_dict(state)
    losses = model.loss(*seg_batch(model))
    assert set(early(losses)) == {'feat_loss'}
    torch.testing.assert_close(losses['e.feat_loss'], losses['f.loss'])


def test_the_auxiliary_head_of_the_student_needs_no_parameters():
    model = with_exit(
        segmentor(auxiliary=True), tap='auxiliary_head', gt=0.0, kd=1.0, weight=0.5
    )  # fmt: skip
    assert not list(model.distillation.parameters())
    norms_in_eval(model)
    inputs, samples = seg_batch(model)
    losses = model.loss(inputs, samples)
    teacher = model.distillation.teachers[None].model
    with torch.no_grad():
        ours = model.auxiliary_head.forward(model.extract_feat(inputs))
        theirs = teacher.decode_head.forward(teacher.extract_feat(inputs))
        ours = F.interpolate(ours, theirs.shape[2:], mode='bilinear', align_corners=False)
        expected = 0.5 * kl(ours, theirs)
    torch.testing.assert_close(losses['e.kd_loss_seg'], expected, rtol=1e-4, atol=1e-7)
    losses['e.kd_loss_seg'].backward()
    assert model.auxiliary_head.conv_seg.weight.grad.abs().sum() > 0
    assert model.decode_head.conv_seg.weight.grad is None
    with pytest.raises(ValueError, match=r"'auxiliary_head'.*gt=0, kd=1, feat=0"):
        with_exit(segmentor(auxiliary=True), tap='auxiliary_head')


def run(model, steps=2):
    torch.manual_seed(7)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        losses = model.loss(*seg_batch(model))
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
    return losses, torch.random.get_rng_state()


def test_weight_0_leaves_weights_buffers_and_the_random_stream_alone():
    cfg = segmentor(dropout_ratio=0.5)
    stock = plain(cfg).train()
    model = with_exit(cfg, weight=0.0, dropout=0.5)
    assert not any(p.requires_grad for p in model.distillation.parameters())
    before = copy.deepcopy(model.distillation.state_dict())
    (ours, stream), (theirs, stock_stream) = run(model), run(stock)
    assert torch.equal(stream, stock_stream) and ours.keys() == theirs.keys()
    for name, value in stock.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for name, value in model.distillation.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_students_buffers_are_moved_once():
    stock = plain(segmentor()).train()
    model = with_exit()
    batch = seg_batch(model)
    model.loss(*batch)
    stock.loss(*batch)
    for name, value in stock.named_buffers():
        assert torch.equal(model.get_buffer(name), value), name


def test_ignored_pixels_teach_nothing():
    model = norms_in_eval(with_exit(tap='backbone[0]', gt=0.0, kd=1.0, feat=1.0))
    branch = model.distillation.parts[0].branches[0]
    logits = []
    branch.register_forward_hook(lambda m, a, out: out.retain_grad() or logits.append(out))
    labels = [torch.zeros(64, 64), torch.full((64, 64), 255)]
    value = sum(early(model.loss(*seg_batch(model, labels))).values())
    value.backward()
    assert logits[0].grad[1].eq(0).all() and logits[0].grad[0].abs().sum() > 0


@pytest.mark.parametrize(
    'keys, message',
    [
        (dict(weight=[0.1, 0.2, 0.3]), "exit 'e': 3 weights for 2 tensors"),
        (dict(gt=0.0, kd=0.0), "exit 'e': gt, kd and feat are all 0"),
        (dict(teacher=None), "exit 'e': .*there is none; .*gt=1, kd=0, feat=0"),
        (dict(tap='backbonne'), "exit 'e', student: tap 'backbonne'.*backbone"),
        (dict(tap='decode_head', gt=0.0, kd=1.0, teacher=None), 'there is none'),
        (dict(gt=-1.0), "exit 'e': gt=-1.0"),
    ],
)
def test_mistakes_are_one_line(keys, message):
    with pytest.raises(ValueError, match=message) as error:
        with_exit(**keys)
    assert '\n' not in str(error.value)


def test_a_frozen_stage_is_refused_unless_the_exit_is_off():
    frozen = segmentor(backbone=dict(frozen_stages=2))
    with pytest.raises(ValueError, match=r"exit 'e': tap .* has no gradient: a frozen stage"):
        with_exit(frozen, tap='backbone[1]')
    with_exit(frozen, tap='backbone[2]')


def test_a_detector_has_no_use_for_it():
    with pytest.raises(ValueError, match="exit 'e': "):
        distil(
            detector(), teacher=random_teacher(detector()),
            exits=dict(e=dict(type='SegExit', tap='backbone[1]')),
        )  # fmt: skip


def test_features_count_branch_by_branch():
    def features(weight):
        model = with_exit(weight=weight, gt=0.0, kd=0.0, feat=2.0)
        norms_in_eval(model)
        losses = early(model.loss(*seg_batch(model)))
        assert set(losses) == {'feat_loss'}
        return losses['feat_loss'].item()

    first, second = features([1.0, 0.0]), features([0.0, 1.0])
    assert abs(first - second) > 1e-3
    assert features([0.1, 0.4]) == pytest.approx(0.1 * first + 0.4 * second, rel=1e-5)
    assert features(0.3) == pytest.approx(0.3 * (first + second), rel=1e-5)
