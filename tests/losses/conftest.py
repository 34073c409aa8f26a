"""Comparison of a loss with a re-derivation in plain Python, value and gradient."""

import pytest
import torch

STEP = 1e-5


@pytest.fixture
def agrees_with():
    """``check(loss, reference, student, teacher)``: float64 to 1e-8, fp32 to 1e-5.

    ``reference`` gets nested lists and returns a float; its gradient is taken by central
    differences.
    """

    def check(loss, reference, student, teacher):
        student, teacher = student.double(), teacher.double()
        value = reference(student.tolist(), teacher.tolist())
        gradient = torch.zeros_like(student)
        for i in range(student.numel()):
            ends = []
            for step in (STEP, -STEP):
                moved = student.clone()
                moved.view(-1)[i] += step
                ends.append(reference(moved.tolist(), teacher.tolist()))
            gradient.view(-1)[i] = (ends[0] - ends[1]) / (2 * STEP)
        assert gradient.abs().max() > 1e-4, 'a case without gradient shows nothing'
        for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-5)):
            x = student.to(dtype, copy=True).requires_grad_()
            y = teacher.to(dtype, copy=True).requires_grad_()
            out = loss(x, y)
            out.backward()
            assert out.shape == () and out.dtype == dtype
            assert y.grad is None
            assert out.item() == pytest.approx(value, rel=tolerance, abs=tolerance)
            torch.testing.assert_close(
                x.grad.double(), gradient, rtol=10 * tolerance, atol=tolerance
            )

    return check


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
