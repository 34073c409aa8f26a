import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from mmkd.losses import CrossImageMemoryLoss

LABEL = torch.tensor([[[0, 0, 1], [1, -1, 0]], [[2, 2, 2], [-1, 1, 1]]])
ALL = 10**6


def made(channels=3, **settings):
    """A loss of known queues, which draws all of them, without a projector."""
    torch.manual_seed(5)
    sizes = dict(pixel_queue=6, region_queue=4, pixel_keys=ALL, region_keys=ALL)
    loss = CrossImageMemoryLoss(**{**sizes, **settings})
    maps = torch.zeros(2, channels, 2, 3)
    loss.prepare(maps, maps, num_classes=3)
    loss.project = nn.Identity()
    return loss


def direction(vector):
    length = math.sqrt(sum(v * v for v in vector))
    return [v / length for v in vector]


def cirkd(label, mask, tau, temperature, pixel_weight, region_weight, channels=3):
    """The queues' newest entries replace the first of the initial ones; order means nothing."""
    start = {name: queue.keys.double().tolist() for name, queue in made(channels).queues.items()}

    def pixels_of(image, b):
        return {
            (i, j): direction([channel[i][j] for channel in image])
            for i, row in enumerate(label[b])
            for j, kind in enumerate(row)
            if kind >= 0 and mask[b][i][j] > 0
        }

    def softmax(pixel, keys):
        likeness = [sum(a * b for a, b in zip(pixel, key)) for key in keys]
        exps = [math.exp(v / (tau * temperature)) for v in likeness]
        return [v / sum(exps) for v in exps]

    def reference(student, teacher):
        keys = dict(pixels=[], regions=[])
        for kind in range(3):
            fresh = dict(pixels=[], regions=[])
            for b, image in enumerate(teacher):
                same = [p for (i, j), p in pixels_of(image, b).items() if label[b][i][j] == kind]
                fresh['pixels'] += same
                if same:
                    mean = [sum(values) / len(same) for values in zip(*same)]
                    fresh['regions'].append(direction(mean))
            for name, entries in fresh.items():
                keys[name] += entries + start[name][kind][len(entries) :]
        total = weights = 0.0
        for b, (ours, theirs) in enumerate(zip(student, teacher)):
            ours, theirs = pixels_of(ours, b), pixels_of(theirs, b)
            for (i, j), pixel in ours.items():
                weights += mask[b][i][j]
                for name, factor in (('pixels', pixel_weight), ('regions', region_weight)):
                    p_s, p_t = softmax(pixel, keys[name]), softmax(theirs[i, j], keys[name])
                    kl = sum(t * math.log(t / s) for s, t in zip(p_s, p_t))
                    total += mask[b][i][j] * factor * kl
        return temperature**2 * total / weights

    return reference


@pytest.mark.parametrize(
    'settings',
    [
        dict(tau=0.1, temperature=1.0, pixel_weight=1.0, region_weight=1.0),
        dict(tau=0.5, temperature=2.0, pixel_weight=0.5, region_weight=2.0),
    ],
)
def test_against_python(agrees_with, settings):
    mask = torch.rand(2, 2, 3, dtype=torch.float64) + 0.1
    mask[0, 0, 1] = mask[1, 0] = 0
    agrees_with(
        lambda s, t: made(**settings).to(s.dtype)(s, t, mask=mask, label=LABEL),
        cirkd(LABEL.tolist(), mask.tolist(), **settings),
        torch.randn(2, 3, 2, 3),
        torch.randn(2, 3, 2, 3),
    )


def test_written_out():
    # One pixel, two keys at right angles: (1, 0), which it brings itself, and (0, 1). Student
    # between them, so half and half; teacher like the first by e to 1.
    loss = made(2, tau=1.0, region_weight=0.0, pixel_queue=2)
    loss.num_classes = 1
    loss.queues['pixels'].contents['keys'] = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    loss.queues['pixels'].contents['next_slot'] = torch.zeros(1, dtype=torch.long)
    student = torch.tensor([3.0, 3.0]).view(1, 2, 1, 1)
    teacher = torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)
    value = loss(student, teacher, label=torch.zeros(1, 1, 1))
    p = math.e / (math.e + 1)
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert value.item() == pytest.approx(expected)
    assert set(loss.queues) == {'pixels'}


def test_equal_maps_teach_nothing():
    x = torch.randn(2, 3, 2, 3)
    assert made()(x, x, label=LABEL).item() == pytest.approx(0, abs=1e-6)


def test_a_class_remembers_its_own_pixels():
    """The published code stores pixels of any class under a label."""
    loss = made(pixels=4, pixel_queue=8, region_queue=2)
    label = torch.randint(0, 3, (2, 6, 5))
    teacher = nn.functional.one_hot(label).permute(0, 3, 1, 2) * 7.0
    before = loss.queues['pixels'].keys.clone()
    loss(torch.randn(2, 3, 6, 5), teacher, label=label)
    own = torch.eye(3)[:, None]
    assert torch.equal(loss.queues['pixels'].keys, own.expand(3, 8, 3))  # 4 of each of 2 images
    assert not torch.equal(before, loss.queues['pixels'].keys)
    torch.testing.assert_close(loss.queues['regions'].keys, own.expand(3, 2, 3))
    ignored = label.masked_fill(label == 1, -1)
    queue = loss.queues['pixels'].contents
    for x in queue.values():
        x.zero_()
    loss(torch.randn(2, 3, 6, 5), teacher, label=ignored)
    assert queue['keys'][[0, 2]].any(2).all() and not queue['keys'][1].any()


def test_pixels_and_keys_are_as_many_as_published():
    loss = CrossImageMemoryLoss()
    student, teacher = torch.randn(2, 4, 8, 8), torch.randn(2, 6, 8, 8)
    loss.prepare(student, teacher, num_classes=3)
    assert {n: q.keys.shape for n, q in loss.queues.items()} == dict(
        pixels=(3, 20000, 6), regions=(3, 2000, 6)
    )
    assert [p.shape for p in loss.project.parameters()] == [(6, 4), (6,), (6,), (6, 6)]
    drawn = []
    for queue in loss.queues.values():
        stock = queue.draw
        queue.draw = lambda n, stock=stock: drawn.append(n) or stock(n)
    loss(student, teacher, label=torch.arange(128).view(2, 8, 8) % 3).backward()
    assert drawn == [4096 // 3 + 1, 1024 // 3 + 1]
    assert loss.queues['pixels'].contents['next_slot'].tolist() == [32] * 3
    assert loss.queues['regions'].contents['next_slot'].tolist() == [2] * 3
    assert all(p.grad.abs().sum() > 0 for p in loss.project.parameters())


def test_bad_arguments():
    for name in ('tau', 'temperature', 'pixel_queue', 'pixels', 'region_keys'):
        with pytest.raises(ValueError, match=f'{name}=0 must be a positive'):
            CrossImageMemoryLoss(**{name: 0})
    with pytest.raises(ValueError, match='region_weight=-1 must not be negative'):
        CrossImageMemoryLoss(region_weight=-1)


def learning():
    loss = made()
    loss.project = nn.Linear(3, 3)
    return loss


def batch():
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(4, 3, 2, 3, generator=generator) for _ in range(2))
    label = torch.cat([LABEL, LABEL.masked_fill(LABEL == 0, -1).flip(0)])
    label[2] = -1  # the second rank has fewer of everything
    return student.requires_grad_(), teacher, label


def work_of_a_rank(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    loss, (student, teacher, label) = learning(), batch()
    part = slice(2 * rank, 2 * rank + 2)
    loss(student[part], teacher[part], label=label[part]).backward()
    queues = {name: queue.contents for name, queue in loss.queues.items()}
    torch.save((student.grad, loss.project.weight.grad, queues), f'{folder}/{rank}.pth')
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path):
    torch.multiprocessing.start_processes(
        work_of_a_rank, (str(tmp_path),), nprocs=2, start_method='fork'
    )
    ranks = [torch.load(tmp_path / f'{rank}.pth') for rank in range(2)]
    loss, (student, teacher, label) = learning(), batch()
    loss(student, teacher, label=label).backward()
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, student.grad)
    torch.testing.assert_close((ranks[0][1] + ranks[1][1]) / 2, loss.project.weight.grad)
    for name, queue in loss.queues.items():
        for key, x in queue.contents.items():
            assert torch.equal(ranks[0][2][name][key], ranks[1][2][name][key])
            ours, both = x, ranks[0][2][name][key]
            if key == 'keys':  # which of an image's pixels comes first is drawn
                ours, both = ours.sort(1).values, both.sort(1).values
            torch.testing.assert_close(ours, both)
