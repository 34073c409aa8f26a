"""The student's own losses: weighed, or left out so that images alone train it."""

import pytest
import torch
from mmengine.fileio import dump, load
from mmengine.runner import Runner
from toys import batch_for, detector, distil, random_teacher, segmentor, total

from mmkd.testing import differences, toy_config, toy_distiller, train, write_toy_data

FEATURE = dict(type='FeatureKD', tap='backbone[2]')
MAKE = dict(det=detector, seg=segmentor)


def unlabelled(model, **kwargs):
    """A batch as data without labels gives it."""
    inputs, samples = batch_for(model, **kwargs)
    for sample in samples:
        for name in ('gt_instances', 'ignored_instances', 'gt_sem_seg'):
            if name in sample:
                delattr(sample, name)
    return inputs, samples


def distilled(kind, weight, terms=None, **keys):
    return distil(
        MAKE[kind](), teacher=random_teacher(MAKE[kind](width=16)),
        terms=terms or dict(f=FEATURE), student_loss_weight=weight, **keys,
    )  # fmt: skip


@pytest.mark.parametrize('kind', MAKE)
def test_another_weight_scales_the_students_losses_and_nothing_else(kind):
    whole, half = (distilled(kind, w) for w in (1.0, 0.5))
    whole, half = (m.loss(*batch_for(m)) for m in (whole, half))
    assert set(whole) == set(half)
    for name, value in whole.items():
        values, scaled = (x if isinstance(x, list) else [x] for x in (value, half[name]))
        factor = 0.5 if 'loss' in name and name != 'f.loss' else 1.0
        for a, b in zip(values, scaled, strict=True):
            assert torch.equal(a * factor, b), name


@pytest.mark.parametrize('kind', MAKE)
@pytest.mark.parametrize('term', [FEATURE, dict(type='LogitKD')], ids=['feature', 'logits'])
def test_at_0_images_alone_train_it(kind, term):
    labelled = distilled(kind, 1.0, dict(t=term))
    model = distilled(kind, 0, dict(t=term))
    model.load_state_dict(labelled.state_dict())
    losses = model.loss(*unlabelled(model))
    assert losses and all(name.startswith('t.') for name in losses)
    loss, logged = model.parse_losses(losses)
    assert logged['loss'] == sum(losses.values())
    with_labels = labelled.loss(*batch_for(labelled))
    if term is FEATURE:  # the two have drawn the same adapter
        torch.testing.assert_close(losses['t.loss'], with_labels['t.loss'])
    loss.backward()
    assert model.backbone.conv1.weight.grad.norm() > 0


def test_it_runs_only_as_deep_as_terms_ask():
    model = distilled('det', 0)
    count = []
    for module in (model.backbone.layer3, model.backbone.layer4, model.neck, model.bbox_head):
        module.register_forward_hook(lambda m, args, out: count.append(m))
    model.loss(*unlabelled(model))
    assert model.backbone.layer3 in count  # 'backbone' fires once its last stage has run
    assert model.neck not in count and model.bbox_head not in count
    stage = distilled('det', 0, dict(f=dict(FEATURE, tap='backbone.layer3')))
    deeper = []
    stage.backbone.layer4.register_forward_hook(lambda m, args, out: deeper.append(m))
    stage.loss(*unlabelled(stage))
    assert not deeper


def test_padding_teaches_nothing_where_there_are_no_labels():
    model = distilled('seg', 0)
    inputs, samples = unlabelled(model, shapes=((64, 48), (40, 64)))
    mask = model.distillation.family.valid_cells(model, (8, 8), inputs, samples)
    assert mask.shape == (2, 1, 8, 8)
    expected = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    expected[0, :, :, :6] = True
    expected[1, :, :5] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize('kind', MAKE)
def test_exits_of_the_teacher_alone_work(kind):
    name = dict(det='DenseExit', seg='SegExit')[kind]
    exits = dict(e=dict(type=name, tap='backbone[1:]', gt=0.0, kd=1.0))
    losses = distilled(kind, 0, exits=exits)
    losses = losses.loss(*unlabelled(losses))
    assert sum(name.startswith('e.kd_') for name in losses) >= 1
    assert torch.isfinite(total(losses))


@pytest.mark.parametrize(
    ('keys', 'message'),
    [
        (dict(exits=dict(e=dict(type='DenseExit', tap='backbone[1:]'))), "exit 'e'.*labels"),
        (dict(terms=dict(kd=dict(type='LogitKD', avg_factor='num_pos'))), "term 'kd'.*labels"),
        (dict(terms=dict(kd=dict(type='CrossKD', start=0))), "term 'kd'.*labels.*LogitKD instead"),
        (dict(terms=dict(f=dict(FEATURE, schedule=dict(begin=5)))), 'all the time'),
        (dict(terms=dict(f=dict(FEATURE, weight=0.0))), 'all the time'),
    ],
)
def test_what_cannot_do_without_labels_does_not_start(keys, message):
    with pytest.raises(ValueError, match=message) as error:
        distilled('det', 0, **keys)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('weight', [-1.0, [1.0], 'much', float('nan')])
def test_a_weight_is_a_number(weight):
    with pytest.raises(ValueError, match='student_loss_weight') as error:
        distilled('seg', weight)
    assert '\n' not in str(error.value)


def test_a_head_that_the_student_has_needs_its_labels():
    exits = dict(e=dict(type='SegExit', tap='auxiliary_head', gt=0.0, kd=1.0))
    with pytest.raises(ValueError, match=r"exit 'e'.*labels"):
        distil(
            segmentor(auxiliary=True), teacher=random_teacher(segmentor(width=16)), exits=exits,
            student_loss_weight=0,
        )  # fmt: skip


def _without_annotations(cfg):
    """Only images: no masks, no boxes, nothing that reads them."""
    data = cfg.train_dataloader.dataset
    data.pipeline = [t for t in data.pipeline if t['type'] != 'LoadAnnotations']
    if 'ann_file' in data:
        images = load(f'{data.data_root}/boxes.json')
        dump(dict(images=images['images'], categories=[]), f'{data.data_root}/images.json')
        data.ann_file = 'images.json'
    else:
        data.data_prefix = dict(img_path='images')
    return cfg


@pytest.mark.parametrize('kind', MAKE)
def test_a_run_on_pictures_without_labels(kind, tmp_path):
    root = write_toy_data(tmp_path / 'data')
    term = dict(type='FeatureKD', tap='neck[0:2]' if kind == 'det' else 'backbone[2:4]')
    model = toy_distiller(kind, terms=dict(f=term), exits=None, student_loss_weight=0)
    cfg = _without_annotations(toy_config(kind, root, tmp_path / 'run', model, 4, flip=True))
    start = run_state_of(model, cfg)
    runner, losses = train(cfg)
    assert [set(x) for x in losses] == [{'loss', 'f.loss'}] * 4
    moved = differences(start, dict(runner.model.named_parameters()))
    assert any(n.startswith('backbone.') for n in moved)
    head = 'bbox_head.' if kind == 'det' else 'decode_head.'
    assert not any(n.startswith(head) for n in moved)
    if kind == 'det':
        assert any(n.startswith('neck.') for n in moved)


def run_state_of(model, cfg):
    """The student's weights at the start of a run."""
    cfg = cfg.copy()
    cfg.work_dir = f'{cfg.work_dir}_start'
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    return {n: p.detach().clone() for n, p in runner.model.named_parameters()}
