"""Exits of which only a part is taught still give every parameter a gradient under DDP."""

import pytest
import torch.distributed as dist
import toys
from mmengine.model import MMDistributedDataParallel

FEATURE_ONLY = dict(gt=0.0, kd=0.0, feat=1.0)


@pytest.fixture
def one_rank(tmp_path):
    """A process group of this process alone; DDP waits for gradients in it as in any other."""
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ('student', 'exit_'),
    [
        (toys.detector(), dict(type='DenseExit', tap='neck', **FEATURE_ONLY)),
        (
            toys.detector(),
            dict(type='DenseExit', tap='neck', gt=0.0, kd=1.0, kd_losses=dict(loss_bbox=None)),
        ),
        (toys.detector(), dict(type='CrossExit', tap='backbone[1:]', start=1)),
        (toys.detector(), dict(type='SemanticExit', tap='backbone[1:]', weight=[0.0, 1.0, 1.0])),
        (toys.segmentor(), dict(type='SegExit', tap='backbone[2:]', **FEATURE_ONLY)),
    ],
    ids=['dense_features', 'dense_classes', 'cross', 'semantic', 'seg_features'],
)
def test_ddp_waits_for_no_parameter(student, exit_, one_rank):
    teacher = toys.random_teacher(student)
    model = toys.distil(student, teacher=teacher, exits=dict(early=exit_))
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    batch = toys.batch_for(model)
    for _ in range(3):
        losses = wrapped(*batch, mode='loss')
        toys.total(losses).backward()
    assert any(name.startswith('early.') for name in losses)
    assert all(p.grad is not None for p in model.distillation.parameters())
