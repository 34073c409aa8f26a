import pytest
import torch

from mmkd.losses import BoxKDLoss
from mmkd.losses.functional import box_iou


def overlap(a, b, generalized):
    def area(x1, y1, x2, y2):
        return max(x2 - x1, 0) * max(y2 - y1, 0)

    inter = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a) + area(*b) - inter
    value = inter / union
    if generalized:
        hull = area(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
        value -= (hull - union) / hull
    return value


STUDENT = torch.tensor(
    [[0.0, 0.0, 10.0, 10.0], [2.0, 1.0, 6.0, 9.0], [20.0, 20.0, 24.0, 22.0], [3.0, 3.0, 5.0, 5.0]]
)
TEACHER = torch.tensor(
    [[1.0, 2.0, 12.0, 9.0], [0.5, 0.0, 7.0, 7.5], [0.0, 0.0, 5.0, 4.0], [1.0, 1.0, 8.0, 9.0]]
)


@pytest.mark.parametrize('iou', ['giou', 'iou'])
def test_against_python(agrees_with, iou):
    def reference(student, teacher):
        pairs = list(zip(student, teacher))
        return sum(1 - overlap(s, t, iou == 'giou') for s, t in pairs) / len(pairs)

    agrees_with(BoxKDLoss(iou), reference, STUDENT, TEACHER)


@pytest.mark.parametrize('column', [False, True])
def test_weight_against_python(agrees_with, column):
    weight = torch.tensor([0.5, 0.0, 1.0, 0.2], dtype=torch.float64)

    def reference(student, teacher):
        rows = zip(weight.tolist(), student, teacher)
        return sum(w * (1 - overlap(s, t, True)) for w, s, t in rows) / 1.3

    given = weight[:, None] if column else weight
    agrees_with(
        lambda s, t: BoxKDLoss()(s, t, weight=given, avg_factor=1.3), reference, STUDENT, TEACHER
    )


def test_written_out():
    student = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    teacher = torch.tensor([[1.0, 1.0, 3.0, 3.0]])
    # Intersection 1, union 7, hull 9.
    assert BoxKDLoss('iou')(student, teacher).item() == pytest.approx(1 - 1 / 7)
    assert BoxKDLoss('giou')(student, teacher).item() == pytest.approx(1 - 1 / 7 + 2 / 9)


def test_equal_is_zero_and_scale_does_not_matter():
    assert BoxKDLoss()(TEACHER, TEACHER).item() == 0
    torch.testing.assert_close(
        BoxKDLoss()(100 * STUDENT, 100 * TEACHER), BoxKDLoss()(STUDENT, TEACHER)
    )


@pytest.mark.parametrize('iou', ['giou', 'iou'])
def test_degenerate_boxes_are_finite(iou):
    student = torch.tensor(
        [
            [5.0, 5.0, 5.0, 5.0],
            [5.0, 5.0, 5.0, 9.0],
            [9.0, 9.0, 5.0, 5.0],
            [5.0, 5.0, 5.0, 5.0],
            [0.0, 0.0, 1e-9, 1e-9],
        ],
        requires_grad=True,
    )
    teacher = torch.tensor(
        [
            [5.0, 5.0, 5.0, 5.0],
            [5.0, 5.0, 5.0, 9.0],
            [5.0, 5.0, 9.0, 9.0],
            [1.0, 1.0, 8.0, 8.0],
            [0.0, 0.0, 1e-9, 1e-9],
        ]
    )
    loss = BoxKDLoss(iou)(student, teacher)
    loss.backward()
    assert 0 <= loss.item() <= 2
    assert student.grad.isfinite().all() and student.grad.abs().max() < 10


def test_giou_pulls_boxes_that_do_not_meet():
    student = torch.tensor([[10.0, 10.0, 12.0, 12.0]], requires_grad=True)
    BoxKDLoss()(student, torch.tensor([[0.0, 0.0, 2.0, 2.0]])).backward()
    # Descent moves the corner that faces the teacher towards it; plain IoU is flat here.
    assert student.grad[0, 0] > 0 and student.grad[0, 1] > 0
    assert box_iou(student, student + 100).item() == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="iou='ciou' is unknown"):
        BoxKDLoss('ciou')
    with pytest.raises(ValueError, match=r'expected \[M, 4\], got \(2, 5\)'):
        BoxKDLoss()(torch.zeros(2, 5), torch.zeros(2, 5))
