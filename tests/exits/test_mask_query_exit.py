"""Exits of mask-classification students, and branches weighed by their losses."""

import pytest
import torch
import torch.nn.functional as F
from toys import distil, lively, norms_in_eval, plain, random_teacher, save, seg_batch, segmentor
from toys_mask_query import mask_segmentor

from mmkd.losses.functional import semantic_logits

TAPS = ['backbone[2:]', 'decode_head.pixel_decoder[0]']


def with_exit(student, teacher=None, **keys):
    exit_cfg = dict(dict(type='SegExit', tap=TAPS, dropout=0.0), **keys)
    model = distil(student, teacher=teacher, exits=dict(e=exit_cfg))
    lively(model.distillation, 3)
    return norms_in_eval(model)


def early(losses):
    return {n[2:]: v for n, v in losses.items() if n.startswith('e.')}


def branches(model, inputs):
    """What each branch says, logits of its own size."""
    with torch.no_grad():
        stages = model.extract_feat(inputs)
        tapped = [*stages[2:], model.decode_head.pixel_decoder(stages)[0]]
        return [f(x) for f, x in zip(model.distillation.parts[0].branches, tapped)]


def test_labels_by_cross_entropy_over_valid_pixels():
    model = with_exit(mask_segmentor(), weight=[0.1, 0.2, 0.4], gt=0.5, kd=0.0)
    labels = [torch.zeros(64, 64), torch.ones(64, 64)]
    labels[0][:, 40:] = 255
    inputs, samples = seg_batch(model, labels)
    losses = early(model.loss(inputs, samples))
    assert set(losses) == {'gt_loss_ce'}
    target = torch.stack(labels).long()
    expected = 0.0
    for weight, logits in zip((0.1, 0.2, 0.4), branches(model, inputs)):
        full = F.interpolate(logits, (64, 64), mode='bilinear', align_corners=False)
        expected += 0.5 * weight * F.cross_entropy(full, target, ignore_index=255)
    torch.testing.assert_close(losses['gt_loss_ce'], expected)
    losses['gt_loss_ce'].backward()
    assert model.backbone.layer3[0].downsample[0].weight.grad.abs().sum() > 0
    assert model.decode_head.pixel_decoder.mask_feature.weight.grad.abs().sum() > 0
    assert model.decode_head.cls_embed.weight.grad is None


@pytest.mark.parametrize('per_pixel', [False, True])
def test_teachers_of_either_kind_at_the_exits(per_pixel, tmp_path):
    cfg = segmentor('segformer', width=16) if per_pixel else mask_segmentor(width=16)
    path = save(lively(plain(cfg), seed=1), tmp_path / 'teacher.pth')
    teacher = dict(config=cfg, checkpoint=path, classes='same')
    model = with_exit(mask_segmentor(), teacher, weight=1.0, gt=0.0, kd=1.0)
    inputs, samples = seg_batch(model)
    losses = early(model.loss(inputs, samples))
    source = model.distillation.teachers[None]
    with torch.no_grad():
        target = source.family.forward(source.model, inputs, samples).outputs['seg'][0]
        assert target.shape == (2, 4, 16, 16)
        expected = 0.0
        for logits in branches(model, inputs):
            size = logits.shape[2:]
            theirs = F.interpolate(target, size, mode='bilinear', align_corners=False)
            rows = theirs.softmax(1) * (theirs.log_softmax(1) - logits.log_softmax(1))
            expected += rows.sum(1).mean()
    assert set(losses) == {'kd_loss_seg'}
    torch.testing.assert_close(losses['kd_loss_seg'], expected, rtol=1e-4, atol=1e-6)


def test_a_batch_that_is_ignored_altogether_is_zero():
    model = with_exit(
        mask_segmentor(), random_teacher(mask_segmentor(width=16)), balance='loss'
    )  # fmt: skip
    losses = early(model.loss(*seg_batch(model, [torch.full((64, 64), 255)] * 2)))
    assert set(losses) == {'gt_loss_ce', 'kd_loss_seg'}
    assert all(x == 0 for x in losses.values())
    sum(losses.values()).backward()
    assert model.backbone.conv1.weight.grad.eq(0).all()


def test_matching_is_no_option_of_exits():
    with pytest.raises(ValueError, match="exit 'e': LogitKD: unknown argument 'matching'"):
        with_exit(
            mask_segmentor(), random_teacher(mask_segmentor()), kd_losses=dict(matching='hungarian')
        )  # fmt: skip


def balanced(weight, balance, gt=0.3, kd=0.7, **keys):
    teacher = random_teacher(segmentor(width=16))
    keys = dict(dict(tap='backbone[1:]', gt=gt, kd=kd, weight=weight, balance=balance), **keys)
    model = with_exit(segmentor(), teacher, **keys)
    losses = early(model.loss(*seg_batch(model)))
    return model, losses


def test_balanced_branches_count_by_their_losses():
    sizes = []
    for chosen in range(3):
        weights = [float(i == chosen) for i in range(3)]
        sizes.append(sum(balanced(weights, None)[1].values()).item())
    assert max(sizes) > 1.01 * min(sizes)
    model, losses = balanced(0.2, 'loss')
    # sum_b (0.6 L_b / sum L) L_b
    expected = 0.6 * sum(x * x for x in sizes) / sum(sizes)
    assert sum(losses.values()).item() == pytest.approx(expected, rel=1e-5)
    sum(losses.values()).backward()
    got = [f[-1].weight.grad.clone() for f in model.distillation.parts[0].branches]
    # shares have no gradient: each branch's is its own times its share
    shares = [0.6 * x / sum(sizes) for x in sizes]
    plain_model, plain_losses = balanced(shares, None)
    sum(plain_losses.values()).backward()
    for ours, branch in zip(got, plain_model.distillation.parts[0].branches):
        torch.testing.assert_close(ours, branch[-1].weight.grad)


@pytest.mark.parametrize(
    'keys, message',
    [
        (dict(balance='share'), "balance='share' must be None or 'loss'"),
        (dict(weight=[0.1, 0.2, 0.4]), 'balance=.*weight=.0.1, 0.2, 0.4. must be a number'),
        (dict(tap='backbone[3]'), "balance='loss' needs several branches, not one"),
        (dict(gt=0.0, kd=0.0, feat=1.0), 'gt and kd are both 0'),
    ],
)
def test_mistakes_in_balance_are_one_line(keys, message):
    keys = dict(dict(weight=0.2, balance='loss'), **keys)
    with pytest.raises(ValueError, match=f"exit 'e': .*{message}") as error:
        balanced(**keys)
    assert '\n' not in str(error.value)


def test_a_head_of_the_student_cannot_be_balanced():
    with pytest.raises(ValueError, match="exit 'e': balance='loss' needs several branches"):
        with_exit(
            segmentor(auxiliary=True), random_teacher(segmentor()), tap='auxiliary_head',
            balance='loss', gt=0.0, kd=1.0,
        )  # fmt: skip


def test_ofa_at_exits_and_final_logits_takes_the_labels(tmp_path):
    path = save(lively(plain(segmentor(width=16)), seed=1), tmp_path / 'teacher.pth')
    ofa = dict(loss_seg=dict(type='OFALoss', eps=1.5))
    model = distil(
        segmentor(), teacher=dict(config=segmentor(width=16), checkpoint=path, classes='same'),
        terms=dict(kd=dict(type='LogitKD', **ofa)),
        exits=dict(
            e=dict(type='SegExit', tap='backbone[3]', gt=0, kd=1, weight=1, kd_losses=ofa)
        ),
    )  # fmt: skip
    norms_in_eval(model)
    labels = [torch.zeros(64, 64), torch.full((64, 64), 2)]
    labels[0][:32] = 255
    inputs, samples = seg_batch(model, labels)
    losses = model.loss(inputs, samples)
    teacher = model.distillation.teachers[None].model
    with torch.no_grad():
        features = model.extract_feat(inputs)
        ours = dict(kd=model.decode_head.forward(features))
        ours['e'] = model.distillation.parts[1].branches[0](features[3])
        theirs = teacher.decode_head.forward(teacher.extract_feat(inputs)).softmax(1)
    for name, logits in ours.items():
        log, values = logits.log_softmax(1), []
        for image, y, x in [(0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)]:
            own = torch.zeros(4)
            own[(0, 2)[image]] = 1
            weights = (theirs[image, :, y, x] + own) ** 1.5 - own
            values.append(-(weights * log[image, :, y, x]).sum())
        key = 'kd.loss_seg' if name == 'kd' else 'e.kd_loss_seg'
        torch.testing.assert_close(losses[key], torch.stack(values).mean(), rtol=1e-4, atol=1e-6)


def test_ofa_needs_more_than_one_map():
    binary = dict(
        classes=2, out_channels=1, threshold=0.3,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"term 'kd': .*OFALoss asks for label"):
        distil(
            segmentor(**binary), teacher=random_teacher(segmentor(**binary)),
            terms=dict(kd=dict(type='LogitKD', loss_seg=dict(type='OFALoss'))),
        )  # fmt: skip


def test_its_own_final_predictions_at_the_exits():
    model = with_exit(mask_segmentor(), 'self', tap='backbone[2]', gt=0.0, kd=1.0, weight=1.0)
    inputs, samples = seg_batch(model)
    value = model.loss(inputs, samples)['e.kd_loss_seg']
    with torch.no_grad():
        features = model.extract_feat(inputs)
        classes, masks = (x[-1] for x in model.decode_head(features, samples))
        logits = semantic_logits(classes, masks)
        size = features[2].shape[2:]
        theirs = F.interpolate(logits, size, mode='bilinear', align_corners=False)
        ours = model.distillation.parts[0].branches[0](features[2])
        rows = theirs.softmax(1) * (theirs.log_softmax(1) - ours.log_softmax(1))
    torch.testing.assert_close(value, rows.sum(1).mean(), rtol=1e-4, atol=1e-6)
    value.backward()
    assert model.decode_head.cls_embed.weight.grad is None


@pytest.mark.parametrize('matching', [None, 'hungarian'])
def test_images_alone_train_every_chosen_layer(matching):
    model = distil(
        mask_segmentor(), teacher=random_teacher(mask_segmentor(width=16)), student_loss_weight=0,
        terms=dict(kd=dict(type='LogitKD', layers=(0, 2), matching=matching)),
    )  # fmt: skip
    inputs, samples = seg_batch(model)
    for sample in samples:
        del sample.gt_sem_seg
    losses = model.loss(inputs, samples)
    assert all(name.startswith('kd.') and x > 0 for name, x in losses.items())
    sum(losses.values()).backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
