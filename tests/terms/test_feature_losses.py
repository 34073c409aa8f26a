"""Losses between maps of real detectors: what they are told, and what padding is to them."""

import pytest
import torch
from toys import (
    ANIMALS,
    det_batch,
    detector,
    distil,
    random_teacher,
    segmentor,
    total,
    two_stage,
)

from mmkd.terms.tap import Capture, Tap
from mmkd.testing import differences, run_state, toy_config, toy_distiller, train, write_toy_data

LOSSES = ('FGDLoss', 'MGDLoss', 'FBKDLoss', 'ReviewKDLoss', 'DeFeatLoss', 'FRSLoss')


def taught(name, student=detector, teacher=detector, **loss):
    term = dict(type='FeatureKD', tap='neck', loss=dict(type=name, **loss))
    teacher = random_teacher(teacher(width=16, channels=24))
    return distil(student(), classes=ANIMALS[:3], teacher=teacher, terms=dict(f=term))


def at_neck(model, inputs, samples):
    """The term's value and its gradient at each map of the neck."""
    tap = Tap.parse('neck')
    capture = Capture(model, [tap], 'student')
    with capture:
        losses = model.loss(inputs, samples)
    return losses, torch.autograd.grad(losses['f.loss'], capture.read(tap), retain_graph=True)


@pytest.mark.parametrize('name', LOSSES)
def test_a_step_on_narrower_maps_trains_student_and_blocks(name):
    model = taught(name)
    losses = model.loss(*det_batch(model))
    total(losses).backward()
    assert losses['f.loss'].isfinite() and losses['f.loss'] > 0
    for key, p in model.distillation.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), key
    assert sum(p.grad.abs().sum() for p in model.distillation.parameters()) > 0


@pytest.mark.parametrize('name', LOSSES)
def test_padded_cells_teach_nothing(name):
    settings = dict(mask_ratio=0.0) if name == 'MGDLoss' else {}
    model = taught(name, **settings)
    inputs, samples = det_batch(model, shapes=((64, 40), (32, 64)))
    assert inputs.shape[-2:] == (64, 64)
    _, gradients = at_neck(model, inputs, samples)
    assert gradients[0][0, :, :, 5:].eq(0).all() and gradients[0][1, :, 4:].eq(0).all()
    inside = gradients[0][0, :, :, :5].abs().sum(0)
    assert inside.gt(0).all()


@pytest.mark.parametrize('name', LOSSES)
def test_images_without_boxes(name):
    model = taught(name)
    losses, gradients = at_neck(model, *det_batch(model, boxes=[[], []]))
    assert losses['f.loss'].isfinite() and losses['f.loss'] > 0
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize('name', ['FGDLoss', 'ReviewKDLoss'])
def test_two_stage_detectors_are_taught_too(name):
    model = taught(name, student=two_stage, teacher=two_stage)
    losses, gradients = at_neck(model, *det_batch(model))
    assert losses['f.loss'] > 0 and all(g.abs().sum() > 0 for g in gradients)


def test_a_segmentor_has_no_boxes():
    term = dict(type='FeatureKD', tap='backbone[2:4]', loss=dict(type='FGDLoss'))
    with pytest.raises(ValueError, match="term 'f': FGDLoss asks for boxes, which the student Enc"):
        distil(segmentor(), teacher=random_teacher(segmentor(width=16)), terms=dict(f=term))


def test_class_form_of_frs_is_a_class_loss_of_logit_kd():
    term = dict(type='LogitKD', loss_cls=dict(type='FRSClassLoss'), loss_bbox=None)
    model = distil(detector(), teacher=random_teacher(detector(width=16)), terms=dict(f=term))
    losses = model.loss(*det_batch(model))
    assert [n for n in losses if n.startswith('f.')] == ['f.loss_cls']
    assert losses['f.loss_cls'].isfinite() and losses['f.loss_cls'] > 0


def test_a_resumed_run_erases_what_the_uninterrupted_one_erased(tmp_path):
    root = write_toy_data(tmp_path / 'data', count=4)
    mgd = dict(type='FeatureKD', tap='neck', loss=dict(type='MGDLoss', alpha=1e-2))

    def run(name, **load):
        model = toy_distiller('det', terms=dict(mgd=mgd), exits={})
        settings = dict(iters=4, save_interval=2, flip=False, **load)
        return train(toy_config('det', root, tmp_path / name, model, **settings))

    whole, losses = run('whole')
    torch.manual_seed(99)  # a new process would be elsewhere in its random stream
    start = str(tmp_path / 'whole' / 'iter_2.pth')
    resumed, rest = run('resumed', load_from=start, resume=True)
    assert [differences(a, b) for a, b in zip(losses[2:], rest, strict=True)] == [[], []]
    assert differences(run_state(whole), run_state(resumed)) == []
