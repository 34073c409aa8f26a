"""Feature terms: what they compute, which pairs they join, and which they refuse."""

import pytest
import torch
import torch.nn.functional as F
from toys import det_batch, detector, distil, random_teacher, seg_batch, segmentor, total

from mmkd.terms.tap import Capture, Tap


def taught(student, teacher, /, **term):
    term = dict(dict(type='FeatureKD', loss=dict(type='FeatureMSE')), **term)
    return distil(student, teacher=random_teacher(teacher), terms=dict(f=term))


def heard(model, inputs, *addresses):
    taps = [Tap.parse(a) for a in addresses]
    capture = Capture(model, taps, 'model')
    with capture, torch.no_grad():
        model.extract_feat(inputs)
    return [x for tap in taps for x in capture.read(tap)]


def test_value_is_the_weighted_loss_of_projected_features():
    student, teacher = detector(channels=16), detector(channels=24, width=16)
    model = taught(student, teacher, tap='neck', weight=[1.0, 0.5, 2.0])
    inputs, samples = det_batch(model)
    term = model.distillation.parts[0]
    ours = heard(model, inputs, 'neck')
    theirs = heard(model.distillation.teachers[None].model, inputs, 'neck')
    expected = sum(
        w * (F.conv2d(x, a.conv.weight, a.conv.bias) - y).square().mean()
        for w, x, y, a in zip((1.0, 0.5, 2.0), ours, theirs, term.adapters)
    )
    torch.testing.assert_close(model.loss(inputs, samples)['f.loss'], expected)


def test_other_address_in_the_teacher_and_a_coarser_target():
    model = taught(
        detector(), detector(width=8), tap='backbone[0:2]', teacher_tap='backbone[1:3]'
    )  # fmt: skip
    inputs, samples = det_batch(model)
    ours = heard(model, inputs, 'backbone[0:2]')
    theirs = heard(model.distillation.teachers[None].model, inputs, 'backbone[1:3]')
    term = model.distillation.parts[0]
    expected = sum(
        (F.avg_pool2d(a.conv(x), 2) - y).square().mean()
        for x, y, a in zip(ours, theirs, term.adapters)
    )
    torch.testing.assert_close(model.loss(inputs, samples)['f.loss'], expected)


def test_nothing_is_trained_where_the_shapes_are_equal():
    model = taught(detector(), detector(), tap='neck', adapter=None)
    assert not list(model.distillation.parameters())
    auto = taught(detector(), detector(), tap='neck')
    assert not list(auto.distillation.parameters())


def test_equal_features_teach_nothing(tmp_path):
    from toys import lively, plain, save

    path = save(lively(plain(detector())), tmp_path / 'same.pth')
    for loss in ('FeatureMSE', 'PKDLoss', 'ChannelWiseDivergence'):
        model = distil(
            detector(), teacher=dict(config=detector(), checkpoint=path), student_checkpoint=path,
            terms=dict(f=dict(type='FeatureKD', tap='neck', loss=dict(type=loss))),
        )  # fmt: skip
        assert abs(model.loss(*det_batch(model))['f.loss'].item()) < 1e-6


@pytest.mark.parametrize(
    'term, message',
    [
        (
            dict(tap='backbone', teacher_tap='neck'),
            'student gives 4 tensors.*teacher 3.*same levels',
        ),
        (dict(tap='neck', weight=[1.0, 2.0]), '2 weights for 3 tensors at neck'),
        (dict(tap='neck', adapter=None), 'shapes differ.*adapter=None'),
        (dict(tap='nekc'), "term 'f', student: tap 'nekc'.*neck"),
        (dict(tap='neck', teacher_tap='nekc'), "term 'f', teacher: tap 'nekc'.*neck"),
        (dict(tap='neck', loss=dict(type='PKDLos')), "term 'f': .*unknown type 'PKDLos'.*PKDLoss"),
        (dict(tap='neck', wieght=1), "term 'f': .*wieght"),
        (dict(tap='neck', weight=float('nan')), "term 'f': weight=nan"),
        (dict(tap='neck', weight=-1.0), "term 'f': weight=-1.0"),
        (dict(tap='neck', teacher='big'), "term 'f': teacher='big'"),
    ],
)
def test_mistakes_are_one_line(term, message):
    with pytest.raises(ValueError, match=message) as error:
        taught(detector(), detector(channels=24), **term)
    assert '\n' not in str(error.value)


def test_sizes_that_no_whole_ratio_joins_are_refused():
    odd = detector(backbone=dict(strides=(1, 3, 2, 2)))
    with pytest.raises(ValueError, match=r"term 'f': no whole ratio joins the sizes \(student"):
        taught(detector(), odd, tap='backbone[1]')


def gradient_at(model, address, inputs, samples):
    tap = Tap.parse(address)
    capture = Capture(model, [tap], 'student')
    with capture:
        losses = model.loss(inputs, samples)
    x = capture.read(tap)[0]
    value = sum(v for n, v in losses.items() if n.startswith('f.'))
    (gradient,) = torch.autograd.grad(value, x)
    return value, gradient


@pytest.mark.parametrize('loss', ['FeatureMSE', 'PKDLoss', 'ChannelWiseDivergence'])
def test_padded_cells_teach_nothing(loss):
    model = taught(detector(), detector(width=16), tap='neck[0]', loss=dict(type=loss))
    inputs, samples = det_batch(model, shapes=((64, 40), (32, 64)))
    assert inputs.shape[-2:] == (64, 64)
    _, gradient = gradient_at(model, 'neck[0]', inputs, samples)
    assert gradient[0, :, :, 5:].eq(0).all() and gradient[1, :, 4:].eq(0).all()
    assert gradient[0, :, :, :5].abs().sum(0).gt(0).all()
    assert gradient[1, :, :4].abs().sum(0).gt(0).all()


def test_ignored_boxes_and_ignored_pixels_teach_nothing():
    model = taught(detector(), detector(width=16), tap='neck[0]')
    batch = det_batch(model, ignored=[[[0, 0, 32, 32]], []])
    _, gradient = gradient_at(model, 'neck[0]', *batch)
    assert gradient[0, :, :4, :4].eq(0).all() and gradient[0, :, 4:].abs().sum(0).gt(0).all()
    assert gradient[1].abs().sum(0).gt(0).all()

    model = taught(segmentor(), segmentor(width=16), tap='backbone[1]')
    labels = [torch.zeros(64, 64), torch.full((64, 64), 255)]
    labels[0][:, 32:] = 255
    _, gradient = gradient_at(model, 'backbone[1]', *seg_batch(model, labels))
    assert gradient[0, :, :, 4:].eq(0).all() and gradient[1].eq(0).all()
    assert gradient[0, :, :, :4].abs().sum(0).gt(0).all()


@pytest.mark.parametrize('loss', ['FeatureMSE', 'PKDLoss', 'ChannelWiseDivergence'])
def test_a_batch_without_a_valid_pixel_is_zero_with_a_whole_graph(loss):
    model = taught(segmentor(), segmentor(width=16), tap='backbone[1]', loss=dict(type=loss))
    labels = [torch.full((64, 64), 255)] * 2
    losses = model.loss(*seg_batch(model, labels))
    assert losses['f.loss'] == 0
    total(losses).backward()
    for name, p in model.named_parameters():
        if name.startswith(('backbone.layer2', 'distillation')):
            assert p.grad is not None and p.grad.isfinite().all(), name


def test_outside_its_schedule_it_touches_its_parameters_with_zeros():
    model = taught(
        detector(), detector(width=16), tap='backbone[1]', schedule=dict(begin=10)
    )  # fmt: skip
    model.distillation.iteration = 9
    losses = model.loss(*det_batch(model))
    assert losses['f.loss'] == 0
    total(losses).backward()
    assert all(p.grad.eq(0).all() for p in model.distillation.parameters())


def test_warm_up_scales_the_loss():
    model = taught(
        detector(), detector(width=16), tap='neck[0]', weight=3.0, schedule=dict(warmup=4)
    )  # fmt: skip
    batch, values = det_batch(model), []
    for model.distillation.iteration in (0, 1, 3, 9):
        values.append(model.loss(*batch)['f.loss'].item())
    assert values == pytest.approx([values[3] * f for f in (0.25, 0.5, 1.0, 1.0)])
