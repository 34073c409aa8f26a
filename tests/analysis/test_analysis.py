"""The maths of tools/analyze.py: identities, and values written out by hand."""

import math

import pytest
import torch

from mmkd.analysis import (
    Agreement,
    AveragePrecision,
    Calibration,
    Detections,
    LinearCKA,
    LinearProbe,
    MeanIoU,
    Remainder,
    bin_of,
    box_iou,
    cell_classes,
    remainder,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cka(x, y, parts=1):
    measure = LinearCKA()
    for a, b in zip(x.chunk(parts), y.chunk(parts)):
        measure.update(a, b)
    return measure.value()


def test_cka_of_itself_is_1_and_feels_no_rotation_shift_or_factor():
    x, y = random(50, 6), random(50, 9, seed=1)
    turned = x @ torch.linalg.qr(random(6, 6, seed=2))[0]
    assert cka(x, x) == pytest.approx(1.0, abs=1e-12)
    for same in (turned, x * -3.0, x + 7.0, turned * 0.01 - 2.0):
        assert cka(x, same) == pytest.approx(1.0, abs=1e-5)
        assert cka(same, y) == pytest.approx(cka(x, y), abs=1e-5)
    stretched = x * torch.tensor([10.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert cka(x, stretched) < 0.9


def by_kernels(x, y):
    """Song et al. (2012), equation 5, by whole kernels."""

    def hsic(k, l):  # noqa: E741
        n = len(k)
        k, l = k - k.diag().diag(), l - l.diag().diag()  # noqa: E741
        value = (k @ l).trace() + k.sum() * l.sum() / ((n - 1) * (n - 2))
        return (value - 2 / (n - 2) * (k @ l).sum()) / (n * (n - 3))

    k, l = x @ x.T, y @ y.T  # noqa: E741
    return (hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()).item()


def test_cka_is_that_of_whole_kernels_however_it_is_fed():
    x, y = random(40, 5).double() + 3, random(40, 7, seed=1).double()
    y[:, :5] += x
    for parts in (1, 4, 40):
        assert cka(x, y, parts) == pytest.approx(by_kernels(x, y), rel=1e-9)


def test_cka_of_unrelated_features_is_about_0_even_with_many_channels():
    values = [cka(random(60, 100, seed=s), random(60, 100, seed=s + 99)) for s in range(20)]
    assert abs(sum(values) / 20) < 0.02  # the plain estimate is 0.63 here


def test_cka_without_examples_or_variance_is_none():
    assert LinearCKA().value() is None
    assert cka(random(3, 2), random(3, 2)) is None
    assert cka(torch.ones(9, 2), random(9, 2)) is None


def test_ece_by_hand():
    measure = Calibration(bins=5)
    # bin 4 (0.6, 0.8]: mean 0.7, 1 of 2 right; bin 5: mean 0.9, 2 of 2; bin 1: 0.2, 0 of 1
    measure.update(torch.tensor([0.62, 0.78, 0.85]), torch.tensor([True, False, True]))
    measure.update(torch.tensor([0.95, 0.2]), torch.tensor([True, False]))
    assert measure.ece() == pytest.approx((2 * 0.2 + 2 * 0.1 + 1 * 0.2) / 5)
    assert [row['bin'] for row in measure.rows()] == [0, 3, 4]
    assert measure.rows()[1]['accuracy'] == 0.5
    assert Calibration().bins == 15 and Calibration().ece() is None


def test_bins_are_open_below_and_closed_above():
    assert bin_of(torch.tensor([0.0, 0.1, 0.2, 0.2001, 1.0]), 5).tolist() == [0, 0, 0, 1, 4]


def test_agreement_counts():
    counts = Agreement(['a', 'b', 'c'])
    group = torch.tensor([0, 0, 0, 0, 1])
    label = torch.tensor([0, 0, 0, 0, 1])
    teacher = torch.tensor([0, 1, 1, 1, 1])
    student = torch.tensor([0, 1, 0, 2, 0])
    counts.update(group, label, teacher, student)
    rows = counts.rows()
    assert set(rows) == {'a', 'b'}
    a = rows['a']
    assert (a['count'], a['same'], a['teacher_right'], a['student_right']) == (4, 2, 1, 2)
    assert (a['teacher_wrong'], a['followed'], a['corrected']) == (3, 1, 1)
    assert (a['agreement'], a['follow_rate']) == (0.5, pytest.approx(1 / 3))
    assert rows['b']['follow_rate'] is None and rows['b']['agreement'] == 0.0


def test_dark_knowledge_by_hand():
    p = torch.tensor([[0.7, 0.1, 0.2], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    mass, entropy = remainder(p)
    assert mass.tolist() == pytest.approx([0.3, 0.5, 0.0])
    third = -(math.log(1 / 3) / 3 + math.log(2 / 3) * 2 / 3) / math.log(2)
    assert entropy.tolist() == pytest.approx([third, 1.0, 0.0])
    assert remainder(torch.tensor([[0.6, 0.4]]))[1].tolist() == [0.0]
    means = Remainder()
    means.update(p[:2], torch.tensor([3.0, 1.0]))
    assert means.means()['mass_off_top'] == pytest.approx((0.3 * 3 + 0.5) / 4)
    assert Remainder().means()['entropy_of_rest'] is None


def test_probe_is_the_discriminant_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    cholesky = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    x = torch.randn(4000, 2, generator=generator) @ cholesky.T
    label = (torch.arange(4000) % 4 == 0).long()  # a quarter
    x[label == 1] += torch.tensor([1.0, 0.0])
    probe = LinearProbe(3, 2, shrinkage=0.0)
    for part in (slice(0, 1000), slice(1000, 4000)):
        probe.update(x[part], label[part])
    probe.update(random(9, 2), torch.full((9,), -1))
    weight, bias = probe.solve()
    first, second = x[label == 0].double(), x[label == 1].double()
    within = (3 * first.T.cov(correction=0) + second.T.cov(correction=0)) / 4
    expected = torch.linalg.solve(within, second.mean(0) - first.mean(0))
    assert torch.allclose((weight[1] - weight[0]).double(), expected, rtol=1e-5)
    assert not ((x @ weight.T + bias).argmax(1) == 2).any()  # a class without examples
    middle = (first.mean(0) + second.mean(0)).float() / 2 @ weight.T + bias
    assert (middle[1] - middle[0]).item() == pytest.approx(math.log(1 / 3), abs=1e-4)


def test_probe_without_labels_is_one_line():
    with pytest.raises(ValueError, match='needs labelled cells'):
        LinearProbe(2, 3).solve()


def test_mean_iou_by_hand():
    score = MeanIoU(4)
    score.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    score.update(torch.tensor([2]), torch.tensor([1]))
    # class 0: 1 / 2; class 1: 1 / 3; class 2, only predicted: 0 / 1; class 3 nowhere
    assert score.value() == pytest.approx(100 * (1 / 2 + 1 / 3 + 0) / 3)


def test_average_precision_by_hand():
    score = AveragePrecision(2)
    ranked = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    score.update(ranked, torch.tensor([0, 5, 0]))
    assert score.value() == pytest.approx(100 * (1 / 2 * 1 + 1 / 2 * 2 / 3))  # class 1 is nowhere


def test_boxes():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    assert box_iou(a, b).tolist() == [[pytest.approx(1 / 3), 0.0]]


def detections(*rows):
    values = torch.tensor(rows)
    return Detections(values[:, :4], values[:, 4].long(), values[:, 5])


def test_what_detections_find_say_and_repeat():
    objects = torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 14.0, 14.0]])
    found = detections(
        [0, 0, 4, 4.2, 1, 0.5], [0, 0, 4, 4, 1, 0.9], [10, 10, 14, 14, 0, 0.4], [0, 0, 4, 4, 0, 0.6]
    )  # fmt: skip
    # the second of a class at one object is a double, however well it fits
    assert found.right(objects, torch.tensor([1, 1])).tolist() == [False, True, False, False]
    assert found.says_of(objects).tolist() == [1, 0]
    assert found.sure(0.5).says_of(objects).tolist() == [1, -1]
    other = detections([0, 0, 4, 4, 1, 0.3], [10, 10, 14, 14, 1, 0.8])
    assert found.repeats(other).tolist() == [True, False]
    nothing = found[found.scores > 1]
    assert nothing.says_of(objects).tolist() == [-1, -1]
    assert nothing.repeats(other).tolist() == [False, False]
    assert found.right(objects[:0], torch.zeros(0).long()).tolist() == [False] * 4


def test_classes_of_cells():
    boxes = torch.tensor([[0.0, 0.0, 32.0, 16.0], [8.0, 8.0, 16.0, 16.0], [24.0, 24.0, 26.0, 26.0]])
    cells = cell_classes(boxes, torch.tensor([0, 1, 1]), (4, 4), (32, 32), 2)
    assert cells.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [2, 2, 2, 2], [2, 2, 2, 1]]
