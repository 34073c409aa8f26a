"""Two gloo processes give the gradient of one process on the concatenated batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from plain_maths import randomised

from mmkd.losses.functional import hierarchical_context_loss, reduce_mean
from mmkd.registry import MODELS

LOSSES = (
    'KLDivergence',
    'BinaryKLDivergence',
    'KDQualityFocalLoss',
    'FeatureMSE',
    'BoxKDLoss',
    'LDLoss',
    'LocalizationSelfKD',
    'DKDLoss',
    'NKDLoss',
    'OFALoss',
    'DiceKDLoss',
    'DISTLoss',
    'ATLoss',
    'CosineFeatureLoss',
    'PairwiseAffinityLoss',
    'IFVLoss',
    'FGDLoss',
    'MGDLoss',
    'AfDCDLoss',
    'DeFeatLoss',
    'FRSLoss',
    'FRSClassLoss',
    'hierarchical_context_loss',
)
# The part of DIST that correlates over rows is rank-local.
SETTINGS = dict(
    DISTLoss=dict(intra_loss_weight=0.0),
    FGDLoss=dict(alpha=1.0, beta=1.0, gamma=1.0, lambda_=1.0),
    MGDLoss=dict(alpha=1.0, mask_ratio=0.0),
    AfDCDLoss=dict(feature_weight=1.0, contrast_weight=1.0, mask_ratio=0.0, pool=2, groups=3),
)


def batch(name, case):
    """Student, teacher, mask and label of 4 images, or of 12 rows."""
    generator = torch.Generator().manual_seed(0)
    rows = ('BoxKDLoss', 'LDLoss', 'LocalizationSelfKD', 'DiceKDLoss')
    shape = torch.Size((12, 4) if name in rows else (4, 3, 2, 3))
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
    label = torch.arange(mask.numel()).view(mask.shape) % 5 - 1  # -1 and 3 are no class of three
    return student, teacher, mask, label


def loss_of(name, student, teacher, mask, label):
    if name == 'hierarchical_context_loss':
        return hierarchical_context_loss(student, teacher, mask)
    loss = MODELS.build(dict(type=f'mmkd.{name}', **SETTINGS.get(name, {})))
    known = dict(
        label=label,
        num_classes=3,
        scores=(label.unsqueeze(1) + 2) / 6,
        boxes=[torch.tensor([[1.0, 1.0, 14.0, 7.0]])] * len(student),
        canvas=(16, 24),
    )
    if getattr(loss, 'takes_levels', False):
        student, teacher, mask = [student], [teacher], [mask]
    if hasattr(loss, 'prepare'):
        torch.manual_seed(0)
        loss.prepare(student, teacher)
        randomised(loss)
    context = {key: known[key] for key in getattr(loss, 'asks', ())}
    if name == 'LocalizationSelfKD':
        context['matched'] = label > 0
    return loss(student, teacher, mask=mask, **context)


CASES = ('uneven', 'rank 0 empty', 'all empty')


def local_gradients(rank, store, results):
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    for name in LOSSES:
        for case in CASES:
            student, *others = (x.chunk(2)[rank] for x in batch(name, case))
            student = student.clone().requires_grad_()
            loss_of(name, student, *others).backward()
            # DDP divides the sum of the ranks' gradients by their number.
            torch.save(student.grad / 2, f'{results}/{name}-{case}-{rank}.pt')
    count = torch.tensor(float(rank))
    assert reduce_mean(count).item() == 0.5 and count.item() == rank
    dist.destroy_process_group()


def test_two_ranks_are_one_process(tmp_path):
    args = str(tmp_path / 'store'), str(tmp_path)
    mp.start_processes(local_gradients, args, nprocs=2, start_method='fork')
    for name in LOSSES:
        for case in CASES:
            student, *others = batch(name, case)
            loss_of(name, student.requires_grad_(), *others).backward()
            ranks = [torch.load(tmp_path / f'{name}-{case}-{rank}.pt') for rank in (0, 1)]
            torch.testing.assert_close(torch.cat(ranks), student.grad, rtol=1e-6, atol=1e-6)
            assert (student.grad.abs().sum() > 0) == (case != 'all empty')


@pytest.mark.parametrize('x', [torch.tensor(3.0), torch.tensor([1.0, 2.0])])
def test_single_process_is_identity(x):
    assert reduce_mean(x) is x
