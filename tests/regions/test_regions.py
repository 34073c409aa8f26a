"""Where a feature term teaches."""

from types import SimpleNamespace

import pytest
import torch
from toys import det_batch, detector, distil, random_teacher, seg_batch, segmentor
from toys_mask_query import mask_segmentor

from mmkd.families.cells import pixel_scores
from mmkd.families.family import Family
from mmkd.regions import BoxRegion, ConfidenceRegion, ForegroundRegion
from mmkd.terms.tap import Capture, Tap


def batch_with(boxes=None, labels=None, side=64):
    samples = []
    for item in boxes or labels:
        if boxes:
            sample = dict(gt_instances=SimpleNamespace(bboxes=torch.tensor(item).reshape(-1, 4)))
        else:
            sample = dict(gt_sem_seg=SimpleNamespace(data=item[None]))
        samples.append(_Sample(sample))
    return SimpleNamespace(inputs=torch.zeros(len(samples), 3, side, side), data_samples=samples)


class _Sample(dict):
    __getattr__ = dict.__getitem__


def test_box_region_holds_cells_whose_centre_is_inside():
    lesson = batch_with(boxes=[[[16.0, 0.0, 40.0, 20.0]], []])
    weights = BoxRegion(outside=0.25)(lesson, (4, 4))
    expected = torch.full((2, 1, 4, 4), 0.25)
    expected[0, 0, 0, 1:3] = 1.0  # centres at 24 and 40; rows at 8, the next one at 24
    assert torch.equal(weights, expected)


def test_foreground_region_takes_the_nearest_label():
    labels = torch.zeros(64, 64, dtype=torch.long)
    labels[:32, :16] = 3
    labels[32:, 48:] = 1
    lesson = batch_with(labels=[labels])
    expected = torch.zeros(1, 1, 4, 4)
    expected[0, 0, :2, 0] = 1.0
    assert torch.equal(ForegroundRegion(background=(0, 1))(lesson, (4, 4)), expected)


def test_confidence_region_is_the_highest_score():
    cls = [torch.full((1, 4, 4, 4), -9.0), torch.full((1, 4, 2, 2), -9.0)]
    cls[0][0, 2, 1, 3] = 0.0
    cls[1][0, 1, 1, 0] = 2.0
    heard = SimpleNamespace(predictions=SimpleNamespace(outputs=dict(cls=cls)))
    family = Family(None)
    lesson = SimpleNamespace(teacher=lambda name: heard, frozen=lambda name: (None, family))
    weights = ConfidenceRegion(power=2.0)(lesson, (4, 4))
    floor = torch.tensor(-9.0).sigmoid() ** 2
    expected = torch.full((1, 1, 4, 4), floor.item())
    expected[0, 0, 2:, :2] = torch.tensor(2.0).sigmoid() ** 2
    expected[0, 0, 1, 3] = 0.25
    torch.testing.assert_close(weights, expected)


def test_scores_of_a_segmentor_are_probabilities():
    logits = torch.tensor([0.0, 0.0, 5.0, 0.0]).view(1, 2, 1, 2)
    expected = torch.tensor([torch.tensor(5.0).sigmoid(), 0.5]).view(1, 1, 1, 2)
    torch.testing.assert_close(pixel_scores(logits), expected)
    torch.testing.assert_close(pixel_scores(logits[:, 1:]), logits[:, 1:].sigmoid())


@pytest.mark.parametrize(
    'student, teacher, region, message',
    [
        (segmentor(), segmentor(), 'BoxRegion', 'asks for boxes, .* student EncoderDecoder does'),
        (detector(), detector(), 'ForegroundRegion', 'asks for label, .* student RetinaNet does'),
        (detector(), segmentor(), 'ForegroundRegion', 'asks for label, .* student RetinaNet does'),
    ],
)
def test_what_a_model_does_not_give_is_refused_before_the_first_step(
    student, teacher, region, message
):
    term = dict(type='FeatureKD', tap='backbone[1]', region=dict(type=region))
    with pytest.raises(ValueError, match=f"term 'f': {region} {message}"):
        distil(student, teacher=random_teacher(teacher), terms=dict(f=term))


def test_labels_of_the_other_library_are_named():
    with pytest.raises(ValueError, match=r'BoxRegion: .*detectors only'):
        BoxRegion()(batch_with(labels=[torch.zeros(64, 64)]), (4, 4))
    with pytest.raises(ValueError, match=r'ForegroundRegion: .*use BoxRegion'):
        ForegroundRegion()(batch_with(boxes=[[[0.0, 0.0, 1.0, 1.0]]]), (4, 4))


def gradient_at(model, address, inputs, samples):
    tap = Tap.parse(address)
    capture = Capture(model, [tap], 'student')
    with capture:
        losses = model.loss(inputs, samples)
    return torch.autograd.grad(losses['f.loss'], capture.read(tap)[0])[0]


def test_a_term_teaches_inside_the_boxes_only_and_never_in_padding():
    term = dict(
        type='FeatureKD', tap='neck[0]', loss=dict(type='FeatureMSE'), region=dict(type='BoxRegion')
    )
    model = distil(detector(), teacher=random_teacher(detector(width=16)), terms=dict(f=term))
    boxes = [[[0, 0, 64, 16]], [[0, 0, 16, 16]]]
    batch = det_batch(model, boxes=boxes, shapes=((64, 40), (64, 64)))
    cells = gradient_at(model, 'neck[0]', *batch).abs().sum(1) > 0
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[0, :2, :5] = True
    expected[1, :2, :2] = True
    assert torch.equal(cells, expected)


@pytest.mark.parametrize('who', ['segmentor', 'queries', 'self'])
def test_a_term_listens_to_the_teachers_confidence(who):
    term = dict(
        type='FeatureKD', tap='backbone[1]', loss=dict(type='FeatureMSE'),
        region=dict(type='ConfidenceRegion'),
    )  # fmt: skip
    student, teacher = segmentor(), segmentor() if who == 'segmentor' else mask_segmentor()
    if who == 'self':
        student, term = teacher, dict(term, tap='backbone[1]', teacher_tap='backbone[2]')
        teacher = 'self'
    else:
        teacher = random_teacher(teacher)
    model = distil(student, teacher=teacher, terms=dict(f=term))
    gradient = gradient_at(model, 'backbone[1]', *seg_batch(model))
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
