"""Two gloo processes give the gradient of one process on the concatenated batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmkd.losses.functional import reduce_mean
from mmkd.registry import MODELS

ROW_LOSSES = (
    'KLDivergence',
    'BinaryKLDivergence',
    'KDQualityFocalLoss',
    'FeatureMSE',
    'BoxKDLoss',
    'LDLoss',
)


def batch(name, case):
    """Student, teacher and mask of 4 images, or of 12 rows."""
    generator = torch.Generator().manual_seed(0)
    shape = torch.Size((12, 4) if name in ('BoxKDLoss', 'LDLoss') else (4, 3, 2, 3))
    student = torch.randn(shape, generator=generator)
    teacher = torch.randn(shape, generator=generator)
    if name == 'BoxKDLoss':
        student, teacher = student.sort(dim=1).values, teacher.sort(dim=1).values
    mask = (torch.arange(shape[0] * shape[2:].numel()) % 3 > 0).view(shape[0], *shape[2:])
    half = shape[0] // 2
    mask[: half // 2] = False
    if case in ('rank 0 empty', 'all empty'):
        mask[:half] = False
    if case == 'all empty':
        mask[half:] = False
    return student, teacher, mask


CASES = ('uneven', 'rank 0 empty', 'all empty')


def local_gradients(rank, store, results):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    for name in ROW_LOSSES:
        for case in CASES:
            student, teacher, mask = (x.chunk(2)[rank] for x in batch(name, case))
            student = student.clone().requires_grad_()
            loss = MODELS.build(dict(type=f'mmkd.{name}'))(student, teacher, mask=mask)
            loss.backward()
            # DDP divides the sum of the ranks' gradients by their number.
            torch.save(student.grad / 2, f'{results}/{name}-{case}-{rank}.pt')
    count = torch.tensor(float(rank))
    assert reduce_mean(count).item() == 0.5 and count.item() == rank
    dist.destroy_process_group()


def test_two_ranks_are_one_process(tmp_path):
    mp.spawn(local_gradients, args=(str(tmp_path / 'store'), str(tmp_path)), nprocs=2)
    for name in ROW_LOSSES:
        for case in CASES:
            student, teacher, mask = batch(name, case)
            student.requires_grad_()
            MODELS.build(dict(type=f'mmkd.{name}'))(student, teacher, mask=mask).backward()
            ranks = [torch.load(tmp_path / f'{name}-{case}-{rank}.pt') for rank in (0, 1)]
            torch.testing.assert_close(torch.cat(ranks), student.grad, rtol=1e-6, atol=1e-6)
            assert (student.grad.abs().sum() > 0) == (case != 'all empty')


@pytest.mark.parametrize('x', [torch.tensor(3.0), torch.tensor([1.0, 2.0])])
def test_single_process_is_identity(x):
    assert reduce_mean(x) is x
