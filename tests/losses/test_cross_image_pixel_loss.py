import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from mmkd.losses import CrossImagePixelLoss
from mmkd.losses.functional import cross_image


def softmax(values):
    exps = [math.exp(v) for v in values]
    return [v / sum(exps) for v in exps]


def cirkd(mask, tau):
    def pixels(image, weights):
        found = []
        for i, row in enumerate(weights):
            for j, weight in enumerate(row):
                if weight > 0:
                    pixel = [channel[i][j] for channel in image]
                    length = math.sqrt(sum(v * v for v in pixel))
                    found.append(([v / length for v in pixel], weight))
        return found

    def likeness(pixel, keys):
        return softmax([sum(a * b for a, b in zip(pixel, key)) / tau for key, _ in keys])

    def reference(student, teacher):
        ours, theirs = (
            [pixels(image, weights) for image, weights in zip(maps, mask)]
            for maps in (student, teacher)
        )
        total = 0.0
        for i in range(len(ours)):
            for j in range(len(ours)):
                if not ours[i] or not ours[j]:
                    continue
                kl = 0.0
                for (s, weight), (t, _) in zip(ours[i], theirs[i]):
                    p_s, p_t = likeness(s, ours[j]), likeness(t, theirs[j])
                    kl += weight * sum(b * math.log(b / a) for a, b in zip(p_s, p_t))
                total += kl / sum(weight for _, weight in ours[i])
        return total / len(ours) ** 2

    return reference


@pytest.mark.parametrize('tau', [0.1, 1.0])
def test_against_python(agrees_with, tau):
    reference = cirkd([[[1] * 3] * 2] * 2, tau)
    loss = CrossImagePixelLoss(tau)
    agrees_with(loss, reference, torch.randn(2, 3, 2, 3), torch.randn(2, 4, 2, 3))


def test_mask_with_an_empty_image_against_python(agrees_with):
    mask = torch.tensor([[[1.0, 0, 0.5], [0, 2, 1]], [[0] * 3] * 2, [[0.2, 1, 1], [1, 0, 0]]])
    agrees_with(
        lambda s, t: CrossImagePixelLoss(0.5)(s, t, mask=mask),
        cirkd(mask.tolist(), 0.5),
        torch.randn(3, 2, 2, 3),
        torch.randn(3, 2, 2, 3),
    )


def test_written_out():
    # One image of two pixels. Student: equal, so half and half. Teacher: at right angles, so each
    # is like itself by e and like the other by 1, over e + 1.
    student = torch.ones(1, 1, 1, 2)
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    p = math.e / (math.e + 1)
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert CrossImagePixelLoss(1.0)(student, teacher).item() == pytest.approx(expected)


def test_equal_maps_teach_nothing():
    x = torch.randn(2, 3, 4, 4)
    assert CrossImagePixelLoss()(x, x).item() == 0
    assert CrossImagePixelLoss()(3 * x, x).item() == pytest.approx(0, abs=1e-6)


def test_piece_by_piece_is_at_once():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    found = []
    for piece in (cross_image._PIECE, 100):
        x = student.clone().requires_grad_()
        with mock.patch.object(cross_image, '_PIECE', piece):
            value = CrossImagePixelLoss()(x, teacher)
        found.append((value, *torch.autograd.grad(value, x)))
    torch.testing.assert_close(found[0], found[1])


def test_large_maps_are_pooled_as_published():
    student, teacher = torch.randn(1, 2, 256, 260), torch.randn(1, 2, 256, 260)
    pooled = [F.avg_pool2d(x, 32) for x in (student, teacher)]
    expected = CrossImagePixelLoss()(*pooled)
    torch.testing.assert_close(
        CrossImagePixelLoss(pool=32)(student[..., :256], teacher[..., :256]), expected
    )
    with mock.patch('mmkd.losses.cross_image_pixel_loss.cross_image_pixel_loss') as loss:
        CrossImagePixelLoss()(student, teacher)
        CrossImagePixelLoss()(student[..., :255], teacher[..., :255])
    assert [call.args[-1] for call in loss.call_args_list] == [4, 1]


def test_pooled_cells_are_means_of_what_is_valid():
    x = torch.randn(1, 3, 4, 4)
    mask = torch.ones(1, 4, 4)
    mask[0, 0, :2] = mask[0, 2:, 2:] = 0
    teacher = torch.randn(1, 3, 2, 2)
    cells = torch.stack(
        [x[..., 1:2, :2].mean((2, 3)), x[..., :2, 2:].mean((2, 3)), x[..., 2:, :2].mean((2, 3))], -1
    )
    expected = CrossImagePixelLoss()(
        cells.view(1, 3, 1, 3), teacher.flatten(2)[..., :3].view(1, 3, 1, 3),
        mask=torch.tensor([[[0.5, 1.0, 1.0]]]),
    )  # fmt: skip
    large = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(CrossImagePixelLoss(pool=2)(x, large, mask=mask), expected)


def test_bad_arguments():
    with pytest.raises(ValueError, match='tau=0 must be a positive'):
        CrossImagePixelLoss(0)
    with pytest.raises(ValueError, match='pool=0 must be a positive whole number'):
        CrossImagePixelLoss(pool=0)
