"""Vanilla KD of segmentors, on each head that returns one map."""

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

from mmkd.families import find_family
from mmkd.families.family import Predictions
from mmkd.terms.tap import Capture, Tap

HEADS = ('fcn', 'psp', 'deeplabv3', 'deeplabv3plus', 'segformer', 'uper', 'ocr')
KD = dict(kd=dict(type='LogitKD'))


def logits_of(model, inputs):
    features = model.extract_feat(inputs)
    if not isinstance(model.decode_head, torch.nn.ModuleList):
        return model.decode_head.forward(features)
    return model.decode_head[1].forward(features, model.decode_head[0].forward(features))


def kl(ours, theirs):
    return (theirs.softmax(1) * (theirs.log_softmax(1) - ours.log_softmax(1))).sum(1)


def taught(kind, tmp_path, teacher_kind=None, tau=1.0, **head):
    """A student of random weights and a lively teacher."""
    cfg = segmentor(teacher_kind or kind, width=16, **head)
    path = save(lively(plain(cfg), seed=1), tmp_path / 'teacher.pth')
    terms = dict(kd=dict(type='LogitKD', loss_seg=dict(type='KLDivergence', tau=tau)))
    return distil(
        segmentor(kind, **head), terms=terms,
        teacher=dict(config=cfg, checkpoint=path, classes='same'),
    )  # fmt: skip


@pytest.mark.parametrize('kind', HEADS)
def test_loss_is_the_mean_kl_over_valid_pixels(kind, tmp_path):
    model = norms_in_eval(taught(kind, tmp_path, tau=2.0))
    labels = [torch.zeros(64, 64), torch.zeros(64, 64)]
    labels[0][:, 32:] = 255
    inputs, samples = seg_batch(model, labels)
    losses = model.loss(inputs, samples)
    teacher = model.distillation.teachers[None].model
    with torch.no_grad():
        ours, theirs = logits_of(model, inputs), logits_of(teacher, inputs)
    valid = torch.ones_like(ours[:, 0])
    valid[0, :, ours.shape[-1] // 2 :] = 0
    rows = kl(ours / 2, theirs / 2) * 4
    expected = (rows * valid).sum() / valid.sum()
    torch.testing.assert_close(losses['kd.loss_seg'], expected, rtol=1e-4, atol=1e-6)
    assert expected > 1e-3
    total(losses).backward()
    assert model.backbone.layer3[0].downsample[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('kind', HEADS)
def test_a_student_that_is_its_teacher_has_no_loss(kind, tmp_path):
    path = save(lively(plain(segmentor(kind))), tmp_path / 'same.pth')
    model = distil(
        segmentor(kind), student_checkpoint=path, terms=KD,
        teacher=dict(config=segmentor(kind), checkpoint=path, classes='same'),
    )  # fmt: skip
    value = norms_in_eval(model).loss(*seg_batch(model))['kd.loss_seg']
    assert abs(value.item()) < 1e-6


def test_logits_of_different_sizes_meet_at_the_coarser(tmp_path):
    for student, teacher in (('fcn', 'segformer'), ('segformer', 'fcn')):
        model = norms_in_eval(taught(student, tmp_path, teacher))
        inputs, samples = seg_batch(model)
        with torch.no_grad():
            ours = logits_of(model, inputs)
            theirs = logits_of(model.distillation.teachers[None].model, inputs)
        sizes = ours.shape[-1], theirs.shape[-1]
        assert sorted(sizes) == [2, 16]
        size = (2, 2)
        ours, theirs = (
            F.interpolate(x, size, mode='bilinear', align_corners=False) for x in (ours, theirs)
        )
        expected = kl(ours, theirs).mean()
        got = model.loss(inputs, samples)['kd.loss_seg']
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


BINARY = dict(
    classes=2, out_channels=1, threshold=0.3,
    loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
)  # fmt: skip


def test_binary_heads_use_the_binary_form(tmp_path):
    path = save(lively(plain(segmentor(width=16, **BINARY))), tmp_path / 't.pth')
    model = distil(
        segmentor(**BINARY), terms=KD,
        teacher=dict(config=segmentor(width=16, **BINARY), checkpoint=path, classes='same'),
    )  # fmt: skip
    norms_in_eval(model)
    labels = [torch.zeros(64, 64), torch.full((64, 64), 255)]
    inputs, samples = seg_batch(model, labels)
    with torch.no_grad():
        ours = logits_of(model, inputs)[:1]
        theirs = logits_of(model.distillation.teachers[None].model, inputs)[:1]
    # a sigmoid is a softmax over its logit and 0
    ours, theirs = (torch.cat([x, torch.zeros_like(x)], 1) for x in (ours, theirs))
    expected = kl(ours, theirs).mean()
    got = model.loss(inputs, samples)['kd.loss_seg']
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert got > 1e-3


def test_binary_and_softmax_heads_do_not_compare():
    with pytest.raises(ValueError, match=r"term 'kd': .*out_channels=1, teacher out_channels=2"):
        distil(
            segmentor(**BINARY), terms=KD, teacher=random_teacher(segmentor(classes=2)),
        )  # fmt: skip


def test_a_detector_is_no_teacher_of_logits():
    with pytest.raises(ValueError, match=r"term 'kd': .*RetinaNet.*FeatureKD"):
        distil(segmentor(), terms=KD, teacher=random_teacher(detector()))


def test_unknown_and_dropped_losses():
    with pytest.raises(ValueError, match="'loss_cls'; this family has loss_seg"):
        distil(
            segmentor(), teacher=random_teacher(segmentor()),
            terms=dict(kd=dict(type='LogitKD', loss_cls=dict(type='KLDivergence'))),
        )  # fmt: skip


def gradient_of_logits(model, inputs, samples):
    tap = Tap.parse('decode_head.conv_seg')
    capture = Capture(model, [tap], 'student')
    with capture:
        losses = model.loss(inputs, samples)
    return losses, torch.autograd.grad(losses['kd.loss_seg'], capture.read(tap)[0])[0]


def test_ignored_and_padded_pixels_teach_nothing(tmp_path):
    model = norms_in_eval(taught('segformer', tmp_path))
    labels = [torch.zeros(64, 40), torch.zeros(64, 64)]
    labels[1][:16] = 255
    batch = seg_batch(model, labels, shapes=((64, 40), (64, 64)))
    losses, gradient = gradient_of_logits(model, *batch)
    assert gradient[0, :, :, 10:].eq(0).all() and gradient[1, :, :4].eq(0).all()
    assert gradient[0, :, :, :10].abs().sum(0).gt(0).all()
    assert gradient[1, :, 4:].abs().sum(0).gt(0).all()

    # what the student says there does not matter either
    stock, noise = model.decode_head.forward, torch.zeros(2, 4, 16, 16)
    noise[0, :, :, 10:], noise[1, :, :4] = 50.0, -50.0
    noise[:, 1] *= -1
    model.decode_head.__dict__['forward'] = lambda x: stock(x) + noise
    moved = model.loss(*batch)
    assert torch.equal(moved['kd.loss_seg'], losses['kd.loss_seg'])
    assert not torch.equal(moved['decode.loss_ce'], losses['decode.loss_ce'])


def test_a_batch_that_is_ignored_altogether_is_zero_with_a_whole_graph(tmp_path):
    model = taught('fcn', tmp_path)
    losses = model.loss(*seg_batch(model, [torch.full((64, 64), 255)] * 2))
    assert losses['kd.loss_seg'] == 0
    losses['kd.loss_seg'].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.eq(0).all(), name


@pytest.mark.parametrize('sampled', [False, True])
def test_labels_cost_what_the_heads_own_rule_says(sampled):
    cfg = segmentor()
    cfg['decode_head']['loss_decode'] = [
        dict(type='CrossEntropyLoss', loss_name='loss_ce', loss_weight=0.7),
        dict(type='CrossEntropyLoss', loss_name='loss_other'),
        dict(type='CrossEntropyLoss', loss_name='loss_ce', class_weight=[1.0, 2.0, 0.5, 1.0]),
    ]
    if sampled:
        cfg['decode_head']['sampler'] = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)
    model = plain(cfg)
    family = find_family(model)
    _, samples = seg_batch(model)
    head = model.decode_head
    logits = torch.randn(2, 4, 16, 16)
    stock = head.loss_by_feat(logits, samples)
    heard = Predictions(context=(samples,))
    ours = family.ground_truth_losses(head, dict(seg=[logits]), heard)
    assert set(ours) == set(stock) - {'acc_seg'} == {'loss_ce', 'loss_other'}
    for name, value in ours.items():
        assert torch.equal(value, stock[name])
