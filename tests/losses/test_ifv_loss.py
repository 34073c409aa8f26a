import math

import pytest
import torch

from mmkd.losses import IFVLoss


def cosine(a, b):
    lengths = [math.sqrt(sum(v * v for v in x)) for x in (a, b)]
    return sum(v * w for v, w in zip(a, b)) / (lengths[0] * lengths[1])


def ifv(label, mask):
    def variations(maps):
        found = []
        for image, classes, weights in zip(maps, label, mask):
            pixels = {
                (i, j): [channel[i][j] for channel in image]
                for i, row in enumerate(classes)
                for j, kind in enumerate(row)
                if kind >= 0 and weights[i][j] > 0
            }
            for (i, j), pixel in pixels.items():
                same = [p for (y, x), p in pixels.items() if classes[y][x] == classes[i][j]]
                mean = [sum(values) / len(same) for values in zip(*same)]
                found.append((cosine(pixel, mean), weights[i][j]))
        return found

    def reference(student, teacher):
        pairs = list(zip(variations(student), variations(teacher)))
        return sum(w * (a - b) ** 2 for (a, w), (b, _) in pairs) / sum(w for (_, w), _ in pairs)

    return reference


LABEL = torch.tensor([[[0, 0, 1], [1, -1, 0]], [[2, 2, 2], [-1, 1, 1]]])


def test_against_python(agrees_with):
    agrees_with(
        lambda s, t: IFVLoss()(s, t, label=LABEL, num_classes=3),
        ifv(LABEL.tolist(), [[[1] * 3] * 2] * 2),
        torch.randn(2, 3, 2, 3),
        torch.randn(2, 3, 2, 3),
    )


def test_weights_and_other_channels_against_python(agrees_with):
    mask = torch.rand(2, 2, 3, dtype=torch.float64) + 0.1
    mask[0, 0, 1] = mask[1, 0] = 0
    agrees_with(
        lambda s, t: IFVLoss()(s, t, mask=mask[:, None], label=LABEL, num_classes=3),
        ifv(LABEL.tolist(), mask.tolist()),
        torch.randn(2, 2, 2, 3),
        torch.randn(2, 5, 2, 3),
    )


def test_written_out():
    # The student's mean is (1, 1) / 2, at cosine 1 / sqrt 2 from both pixels; the teacher's two
    # pixels are their own mean.
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[1.0, 2.0], [1.0, 2.0]]).view(1, 2, 1, 2)
    value = IFVLoss()(student, teacher, label=torch.zeros(1, 1, 2), num_classes=1)
    assert value.item() == pytest.approx((1 - 0.5**0.5) ** 2)


def test_blind_to_scale_and_zero_for_equal_maps():
    x = torch.randn(2, 3, 2, 3)
    loss, known = IFVLoss(), dict(label=LABEL, num_classes=3)
    assert loss(x, x, **known).item() == 0
    assert loss(7 * x, x, **known).item() == pytest.approx(0, abs=1e-10)


def test_ignored_pixels_are_not_counted():
    """As if they were not there; the official code counts them in the divisor."""
    student, teacher = torch.randn(1, 3, 2, 3), torch.randn(1, 3, 2, 3)
    label = torch.tensor([[[0, 1, -1], [1, 0, -1]]])
    wide = IFVLoss()(student, teacher, label=label, num_classes=2)
    crop = IFVLoss()(student[..., :2], teacher[..., :2], label=label[..., :2], num_classes=2)
    torch.testing.assert_close(wide, crop)
    beyond = IFVLoss()(student, teacher, label=label.masked_fill(label < 0, 2), num_classes=2)
    assert torch.equal(beyond, wide)


def test_a_pixel_of_length_zero_has_no_gradient():
    student = torch.randn(1, 2, 2, 2)
    student[..., 0, 0] = 0
    student.requires_grad_()
    IFVLoss()(
        student, torch.randn(1, 2, 2, 2), label=torch.zeros(1, 2, 2), num_classes=1
    ).backward()
    assert student.grad.isfinite().all() and student.grad.abs().max() < 10


def test_label_of_another_size():
    with pytest.raises(ValueError, match=r'label of shape \(2, 4, 4\).*\(2, 2, 3\)'):
        x = torch.zeros(2, 2, 2, 3)
        IFVLoss()(x, x, label=torch.zeros(2, 4, 4), num_classes=3)
