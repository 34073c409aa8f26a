import math

import pytest
import torch

from mmkd.losses import KLDivergence, LDLoss


def side(student, teacher, tau):
    s = [math.exp(z / tau) for z in student]
    t = [math.exp(z / tau) for z in teacher]
    return tau**2 * sum(b / sum(t) * math.log((b / sum(t)) / (a / sum(s))) for a, b in zip(s, t))


def test_against_python(agrees_with):
    def reference(student, teacher):
        return sum(side(s, t, 10.0) for s, t in zip(student, teacher)) / len(student)

    agrees_with(LDLoss(), reference, torch.randn(4, 5), 3 * torch.randn(4, 5))


def test_weight_against_python(agrees_with):
    weight = torch.tensor([0.5, 0.0, 1.0, 0.2], dtype=torch.float64)

    def reference(student, teacher):
        rows = zip(weight.tolist(), student, teacher)
        return sum(w * side(s, t, 2.0) for w, s, t in rows) / 0.6

    agrees_with(
        lambda s, t: LDLoss(2.0)(s, t, weight=weight, avg_factor=0.6),
        reference,
        torch.randn(4, 5),
        torch.randn(4, 5),
    )


def test_published_weight():
    """0.25 / 17 with avg_factor=4 is the official sum: mean over bins, / 4, no other divisor."""
    student, teacher, weight = torch.randn(8, 17), torch.randn(8, 17), torch.rand(8)
    official = 0.0
    for w, s, t in zip(weight.tolist(), student.tolist(), teacher.tolist()):
        official += 0.25 * w * side(s, t, 10.0) / 17 / 4
    ours = 0.25 / 17 * LDLoss()(student, teacher, weight=weight, avg_factor=4)
    assert ours.item() == pytest.approx(official, rel=1e-4)


def test_written_out_and_zero():
    student = torch.tensor([[math.log(3.0), 0.0]])
    assert LDLoss(1.0)(student, torch.zeros(1, 2)).item() == pytest.approx(0.1438410362)
    assert LDLoss()(student, student).item() == 0
    shifted = student + 7
    assert LDLoss(1.0)(shifted, student).item() == pytest.approx(0, abs=1e-6)
    assert LDLoss().tau == 10 and KLDivergence().tau == 1


def test_bad_arguments():
    with pytest.raises(ValueError, match=r'expected \[M, bins\], got shape \(1, 68, 2, 2\)'):
        LDLoss()(torch.zeros(1, 68, 2, 2), torch.zeros(1, 68, 2, 2))
    with pytest.raises(ValueError, match='tau=-1 must be'):
        LDLoss(-1)
