"""Vanilla KD of mmseg's Mask2Former and MaskFormer."""

import pytest
import torch
import torch.nn.functional as F
from toys import (
    ANIMALS,
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
from toys_mask_query import mask_segmentor

from mmkd.families import find_family
from mmkd.testing import toy_config, train, write_toy_data

HEADS = ('Mask2FormerHead', 'MaskFormerHead')


def taught(student, teacher, folder, classes='same', **kd):
    """A student of a lively teacher, its own norms and dropouts in eval mode."""
    path = save(lively(plain(teacher), seed=1), folder / 'teacher.pth')
    model = distil(
        student, terms=dict(kd=dict(type='LogitKD', **kd)),
        teacher=dict(config=teacher, checkpoint=path, classes=classes),
    )  # fmt: skip
    return norms_in_eval(model)


@torch.no_grad()
def said(model, inputs):
    """Classes and masks of all layers."""
    samples = [plain_sample(inputs) for _ in inputs]
    return model.decode_head(model.extract_feat(inputs), samples)


def plain_sample(inputs):
    from mmseg.structures import SegDataSample

    size = tuple(inputs.shape[-2:])
    return SegDataSample(metainfo=dict(img_shape=size, batch_input_shape=size))


def collapse(classes, masks):
    """Probabilities [B, K, h, w], query by query."""
    sums = 0.0
    for q in range(classes.shape[1]):
        share = classes[:, q].softmax(-1)[:, :-1, None, None]
        sums = sums + share * masks[:, q, None].sigmoid()
    return (sums + 1e-6) / (sums + 1e-6).sum(1, keepdim=True)


def kl(ours, theirs):
    return (theirs * (theirs / ours).log()).sum(1)


def fcn(model, inputs):
    with torch.no_grad():
        return model.decode_head.forward(model.extract_feat(inputs))


@pytest.mark.parametrize('kind', HEADS)
def test_the_last_layers_collapse_meets_the_teachers_over_valid_pixels(kind, tmp_path):
    model = taught(mask_segmentor(kind), mask_segmentor(kind, width=16, queries=9), tmp_path)
    labels = [torch.zeros(64, 64), torch.zeros(64, 64)]
    labels[0][:, 32:] = 255
    inputs, samples = seg_batch(model, labels)
    losses = model.loss(inputs, samples)
    ours, theirs = (
        collapse(*(x[-1] for x in said(m, inputs)))
        for m in (model, model.distillation.teachers[None].model)
    )
    assert ours.shape == (2, 4, 16, 16)
    rows = kl(ours, theirs)
    expected = (rows[0, :, :8].sum() + rows[1].sum()) / (128 + 256)
    torch.testing.assert_close(losses['kd.loss_seg'], expected, rtol=1e-4, atol=1e-6)
    assert expected > 1e-3
    losses['kd.loss_seg'].backward()
    head = model.decode_head
    for weight in (head.cls_embed.weight, head.mask_embed[0].weight, model.backbone.conv1.weight):
        assert weight.grad.isfinite().all() and weight.grad.abs().sum() > 0


def test_chosen_layers_are_meant(tmp_path):
    model = taught(mask_segmentor(), mask_segmentor(width=16), tmp_path, layers=(0, 2))
    inputs, samples = seg_batch(model)
    value = model.loss(inputs, samples)['kd.loss_seg']
    layers = list(zip(*said(model, inputs)))
    assert len(layers) == 3
    teacher = list(zip(*said(model.distillation.teachers[None].model, inputs)))
    target = collapse(*teacher[-1])
    expected = sum(kl(collapse(*layers[i]), target).mean() for i in (0, 2)) / 2
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('matching', [None, 'hungarian'])
@pytest.mark.parametrize('kind', HEADS)
def test_a_student_that_is_its_teacher_has_no_loss(kind, matching, tmp_path):
    cfg = mask_segmentor(kind)
    path = save(lively(plain(cfg)), tmp_path / 'same.pth')
    model = distil(
        cfg, student_checkpoint=path, terms=dict(kd=dict(type='LogitKD', matching=matching)),
        teacher=dict(config=cfg, checkpoint=path, classes='same'),
    )  # fmt: skip
    losses = norms_in_eval(model).loss(*seg_batch(model))
    ours = {name: x.item() for name, x in losses.items() if name.startswith('kd.')}
    names = ['seg'] if matching is None else ['cls', 'mask', 'dice']
    assert list(ours) == [f'kd.loss_{name}' for name in names]
    assert all(abs(x) < 1e-5 for x in ours.values())


def test_a_per_pixel_teacher_teaches_queries(tmp_path):
    model = taught(mask_segmentor(), segmentor(width=16), tmp_path)
    inputs, samples = seg_batch(model)
    losses = model.loss(inputs, samples)
    theirs = fcn(model.distillation.teachers[None].model, inputs).log_softmax(1)
    classes, masks = (x[-1] for x in said(model, inputs))
    # the teacher's map is coarser, so the logarithm of our sums is brought to its size
    sums = torch.einsum('bqk,bqhw->bkhw', classes.softmax(-1)[..., :-1], masks.sigmoid()) + 1e-6
    ours = F.interpolate(sums.log(), theirs.shape[2:], mode='bilinear')
    expected = (theirs.exp() * (theirs - ours.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(losses['kd.loss_seg'], expected, rtol=1e-4, atol=1e-6)
    total(losses).backward()
    assert model.decode_head.mask_embed[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('kind', HEADS)
def test_queries_teach_a_per_pixel_student(kind, tmp_path):
    model = taught(segmentor('segformer'), mask_segmentor(kind, width=16), tmp_path)
    inputs, samples = seg_batch(model)
    losses = model.loss(inputs, samples)
    teacher = said(model.distillation.teachers[None].model, inputs)
    expected = kl(fcn(model, inputs).softmax(1), collapse(*(x[-1] for x in teacher))).mean()
    torch.testing.assert_close(losses['kd.loss_seg'], expected, rtol=1e-4, atol=1e-6)
    assert expected > 1e-3
    total(losses).backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def gradients_of_masks(model, labels):
    """The distillation's gradient at the last layer's masks."""
    inputs, samples = seg_batch(model, labels)
    head, masks = model.decode_head, []
    handle = head.register_forward_hook(lambda m, a, out: masks.append(out[1][-1]))
    losses = model.loss(inputs, samples)
    handle.remove()
    ours = sum(x for name, x in losses.items() if name.startswith('kd.'))
    return ours, torch.autograd.grad(ours, masks[0], retain_graph=True)[0]


@pytest.mark.parametrize('matching', [None, 'hungarian'])
def test_ignored_pixels_teach_nothing(matching, tmp_path):
    model = taught(mask_segmentor(), mask_segmentor(width=16), tmp_path, matching=matching)
    labels = [torch.full((64, 64), 255), torch.zeros(64, 64)]
    labels[1][32:] = 255
    _, gradient = gradients_of_masks(model, labels)
    assert gradient[0].eq(0).all()
    # a point in the last valid row of cells is interpolated with the row below
    assert gradient[1, :, 9:].eq(0).all() and gradient[1, :, :8].abs().sum() > 0
    if matching is None:
        assert gradient[1, :, 8].eq(0).all()


@pytest.mark.parametrize('matching', [None, 'hungarian'])
def test_a_batch_that_is_ignored_altogether_is_zero_with_a_graph(matching, tmp_path):
    model = taught(mask_segmentor(), mask_segmentor(width=16), tmp_path, matching=matching)
    value, gradient = gradients_of_masks(model, [torch.full((64, 64), 255)] * 2)
    assert value == 0 and gradient.eq(0).all()
    value.backward()
    assert model.backbone.conv1.weight.grad.eq(0).all()


def test_only_shared_classes_are_taught(tmp_path):
    # the teacher knows the student's first and third class, in another order, and one more
    names = (ANIMALS[2], 'horse', ANIMALS[0])
    model = taught(
        mask_segmentor(), mask_segmentor(width=16, classes=3), tmp_path, classes=names
    )  # fmt: skip
    inputs, samples = seg_batch(model)
    value = model.loss(inputs, samples)['kd.loss_seg']
    ours, theirs = (
        collapse(*(x[-1] for x in said(m, inputs)))
        for m in (model, model.distillation.teachers[None].model)
    )
    ours, theirs = ours[:, [0, 2]], theirs[:, [2, 0]]
    ours, theirs = (x / x.sum(1, keepdim=True) for x in (ours, theirs))
    torch.testing.assert_close(value, kl(ours, theirs).mean(), rtol=1e-4, atol=1e-6)


def test_queries_in_another_order_are_found_again(tmp_path):
    cfg = mask_segmentor()
    teacher = lively(plain(cfg))
    path = save(teacher, tmp_path / 'teacher.pth')
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    for embedding in (teacher.decode_head.query_embed, teacher.decode_head.query_feat):
        embedding.weight.data = embedding.weight.data[order]
    model = distil(
        cfg, student_checkpoint=save(teacher, tmp_path / 'student.pth'),
        terms=dict(kd=dict(type='LogitKD', matching='hungarian')),
        teacher=dict(config=cfg, checkpoint=path, classes='same'),
    )  # fmt: skip
    norms_in_eval(model)
    inputs, samples = seg_batch(model)
    ours, theirs = said(model, inputs), said(model.distillation.teachers[None].model, inputs)
    torch.testing.assert_close(ours[0][-1], theirs[0][-1][:, order], rtol=1e-4, atol=1e-5)
    losses = model.loss(inputs, samples)
    assert all(losses[f'kd.loss_{name}'] < 1e-5 for name in ('cls', 'mask', 'dice'))


@pytest.mark.parametrize('kinds', [HEADS, HEADS[::-1]])
@pytest.mark.parametrize('queries', [(4, 9), (9, 4)])
def test_matching_between_heads_of_other_widths_and_numbers(kinds, queries, tmp_path):
    student = mask_segmentor(kinds[0], queries=queries[0], layers=1)
    teacher = mask_segmentor(kinds[1], width=16, queries=queries[1], layers=3)
    model = taught(student, teacher, tmp_path, matching='hungarian')
    losses = model.loss(*seg_batch(model))
    total({n: x for n, x in losses.items() if n.startswith('kd.')}).backward()
    for name in ('cls', 'mask', 'dice'):
        assert losses[f'kd.loss_{name}'] > 0
    assert model.backbone.conv1.weight.grad.isfinite().all()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'keys, message',
    [
        (dict(matching='hungarian'), "matching='hungarian' needs .*EncoderDecoder.*matching=None"),
        (dict(matching='greedy'), "matching='greedy' must be None .*or 'hungarian'"),
        (dict(layers=(3, 6, 9)), r'layers=\[3, 6, 9\]: Mask2FormerHead predicts 3 times; .*0 to 2'),
        (dict(loss_mask=None), "unknown argument 'loss_mask'; this family has loss_seg"),
    ],
)
def test_mistakes_are_one_line(keys, message):
    with pytest.raises(ValueError, match=f"term 'kd': LogitKD: {message}") as error:
        distil(
            mask_segmentor(), terms=dict(kd=dict(type='LogitKD', **keys)),
            teacher=random_teacher(segmentor()),
        )  # fmt: skip
    assert '\n' not in str(error.value)


def test_pairs_that_do_not_compare():
    kd = dict(kd=dict(type='LogitKD'))
    with pytest.raises(ValueError, match=r"term 'kd': .*RetinaNet is not; or distil features"):
        distil(mask_segmentor(), terms=kd, teacher=random_teacher(detector()))
    with pytest.raises(ValueError, match='has one class'):
        distil(
            mask_segmentor(classes=1), terms=kd, teacher=random_teacher(mask_segmentor(classes=1))
        )  # fmt: skip


def test_features_of_the_pixel_decoder():
    model = distil(
        mask_segmentor(), teacher=random_teacher(mask_segmentor(width=16)),
        terms=dict(
            masks=dict(type='FeatureKD', tap='decode_head.pixel_decoder[0]'),
            scales=dict(type='FeatureKD', tap='decode_head.pixel_decoder[1]'),
            stages=dict(type='FeatureKD', tap='backbone[1:]'),
        ),
    )  # fmt: skip
    losses = model.loss(*seg_batch(model))
    for name, part in model.distillation.named_parts().items():
        value = losses[f'{part.name}.loss']
        assert value.isfinite() and value > 0, name
    assert [len(p.shapes) for p in model.distillation.parts] == [1, 3, 3]


@pytest.mark.parametrize('matching', [None, pytest.param('hungarian', marks=pytest.mark.slow)])
def test_a_run_whose_checkpoint_is_the_stock_student(matching, tmp_path):
    student = mask_segmentor(classes=3)
    student['data_preprocessor'].update(size=(64, 64), size_divisor=None)
    model = dict(
        type='mmkd.Distiller', student=student,
        teacher=random_teacher(mask_segmentor(width=16, classes=3)),
        terms=dict(kd=dict(type='LogitKD', matching=matching)),
        exits=dict(early=dict(type='SegExit', tap='backbone[2:]')),
    )  # fmt: skip
    cfg = toy_config(
        'seg', write_toy_data(tmp_path / 'data'), tmp_path / 'run', model, iters=2, val_interval=2,
        save_interval=2,
    )  # fmt: skip
    runner, losses = train(cfg)
    assert all(x.isfinite().all() for x in losses[-1].values())
    saved = torch.load(tmp_path / 'run' / 'iter_2.pth', weights_only=False)
    stock = plain(student).eval()
    stock.load_state_dict(saved['state_dict'], strict=True)
    inputs, samples = seg_batch(stock)
    with torch.no_grad():
        ours, theirs = (m.eval().predict(inputs, samples) for m in (runner.model, stock))
    assert torch.equal(ours[0].seg_logits.data, theirs[0].seg_logits.data)


def test_the_family_is_the_most_specific():
    for kind in HEADS:
        assert type(find_family(plain(mask_segmentor(kind)))).__name__ == 'MaskQuerySegmentor'
    assert type(find_family(plain(segmentor()))).__name__ == 'Segmentor'
