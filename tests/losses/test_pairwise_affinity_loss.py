import math

import pytest
import torch

from mmkd.losses import PairwiseAffinityLoss

FULL = torch.ones(2, 5, 4)


def nodes_of(image, mask, window):
    """Max-pooled vectors of an image ``[C][H][W]``, the last windows cut; of valid cells."""
    height, width = len(mask), len(mask[0])
    found = []
    for top in range(0, height, window[0]):
        for left in range(0, width, window[1]):
            cells = [
                (y, x)
                for y in range(top, min(top + window[0], height))
                for x in range(left, min(left + window[1], width))
                if mask[y][x]
            ]
            if cells:
                found.append([max(channel[y][x] for y, x in cells) for channel in image])
    return found


def lengths(nodes):
    return [math.sqrt(sum(v * v for v in node)) + 1e-8 for node in nodes]


def affinity(mask, window, still):
    """With the norms of ``still``, the student as it stands: they are detached."""

    def reference(student, teacher):
        total = 0.0
        for s, t, own, m in zip(student, teacher, still.tolist(), mask.tolist()):
            norms_s = lengths(nodes_of(own, m, window))
            s, t = nodes_of(s, m, window), nodes_of(t, m, window)
            norms_t, n = lengths(t), len(t)
            for i in range(n):
                for j in range(n):
                    ours = sum(a * b for a, b in zip(s[i], s[j])) / (norms_s[i] * norms_s[j])
                    theirs = sum(a * b for a, b in zip(t[i], t[j])) / (norms_t[i] * norms_t[j])
                    total += (theirs - ours) ** 2 / n**2
        return total / len(student)

    return reference


@pytest.mark.parametrize('scale, window', [(0.5, (2, 2)), (0.34, (1, 1)), (1.0, (5, 4))])
def test_against_python(agrees_with, scale, window):
    student, teacher = torch.randn(2, 3, 5, 4), torch.randn(2, 6, 5, 4)  # channels differ
    if scale == 1.0:
        student, teacher = 2 * student.abs(), teacher.abs()
    still = student.double()
    reference = affinity(FULL, window, still)
    if scale == 1.0:  # one node: it has cosine 1 with itself in both
        loss = PairwiseAffinityLoss(scale)(student, teacher)
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert reference(still.tolist(), teacher.double().tolist()) == pytest.approx(0, abs=1e-6)
    else:
        agrees_with(PairwiseAffinityLoss(scale), reference, student, teacher)


@pytest.mark.parametrize('single', [False, True])
def test_mask_against_python(agrees_with, single):
    mask = torch.rand(3, 5, 4) > 0.4
    mask[0, :2, :2] = False  # a node without a valid cell
    mask[1] = False  # an image without any
    student = torch.randn(3, 3, 5, 4)
    agrees_with(
        lambda s, t: PairwiseAffinityLoss()(s, t, mask=mask[:, None] if single else mask),
        affinity(mask, (2, 2), student.double()),
        student,
        torch.randn(3, 2, 5, 4),
    )


def test_written_out():
    # Two nodes: of cosine 0 in the student, 3/5 in the teacher; a node has 1 with itself in both.
    student = torch.tensor([[1.0, 0.0], [0.0, 7.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[2.0, 3.0], [0.0, 4.0]]).view(1, 2, 1, 2)
    loss = PairwiseAffinityLoss()(student, teacher)
    assert loss.item() == pytest.approx(2 * 0.6**2 / 4)


def test_equal_is_zero_and_so_is_another_length_of_each_node():
    x = torch.randn(2, 4, 6, 6)
    loss = PairwiseAffinityLoss(0.2)
    assert loss(x, x).item() == 0
    assert loss((0.5 + torch.rand(2, 1, 6, 6)) * x, x).item() == pytest.approx(0, abs=1e-6)


def test_nodes_of_zeros_are_finite():
    student = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = PairwiseAffinityLoss()(student, torch.rand(1, 3, 4, 4))
    loss.backward()
    assert loss > 0 and student.grad.isfinite().all()


@pytest.mark.parametrize('scale', [0.0, 1.5, float('nan')])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match=r'PairwiseAffinityLoss: scale=.* must be in \(0, 1\]'):
        PairwiseAffinityLoss(scale)
