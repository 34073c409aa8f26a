"""Feature losses of segmentation on real heads; queues in training, averages and resumed runs."""

import copy

import pytest
import torch
from mmengine.hooks import EMAHook
from toys import detector, distil, random_teacher, seg_batch, segmentor, total

from mmkd.testing import (
    differences,
    run_state,
    toy_config,
    toy_distiller,
    train,
    write_toy_data,
)

MEMORY = dict(
    type='CrossImageMemoryLoss', pixel_queue=30, region_queue=6, pixel_keys=30, region_keys=12
)
LOSSES = dict(
    ifv=dict(type='IFVLoss'),
    pixel=dict(type='CrossImagePixelLoss'),
    memory=MEMORY,
    dcd=dict(type='AfDCDLoss', feature_weight=0.01, contrast_weight=0.01),
)
TAPS = dict(
    psp='decode_head.bottleneck', deeplabv3='decode_head.bottleneck', fcn='decode_head.convs'
)


def taught(loss, head='psp', **term):
    term = dict(dict(type='FeatureKD', tap=TAPS[head], loss=LOSSES[loss]), **term)
    teacher = segmentor(head, width=16, channels=12)
    return distil(segmentor(head), teacher=random_teacher(teacher), terms=dict(f=term))


@pytest.mark.parametrize(
    ('loss', 'head'), [(name, 'psp') for name in LOSSES] + [('ifv', 'fcn'), ('memory', 'deeplabv3')]
)
def test_it_teaches_at_the_published_place(loss, head):
    model = taught(loss, head)
    term = model.distillation.parts[0]
    assert [type(a).__name__ for a in term.adapters] == ['Project']
    has_own = [n for n, _ in term.named_parameters()]
    assert bool(has_own) == (loss in ('memory', 'dcd'))  # the others compare any channels
    losses = model.loss(*seg_batch(model))
    assert losses['f.loss'].isfinite() and losses['f.loss'] > 0
    losses['f.loss'].backward()
    gradient = model.backbone.conv1.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    for name, p in term.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


@pytest.mark.parametrize('loss', LOSSES)
def test_ignored_pixels_teach_nothing(loss):
    model = taught(loss, tap='backbone[1]')
    labels = [torch.zeros(64, 64), torch.arange(64 * 64).view(64, 64) // 1024]
    labels[0][:, 32:] = 255
    seen = []
    hook = model.backbone.layer2.register_forward_hook(lambda *args: seen.append(args[2]))
    losses = model.loss(*seg_batch(model, labels))
    hook.remove()
    (gradient,) = torch.autograd.grad(losses['f.loss'], seen[-1])
    assert not gradient[0, :, :, 4:].any()
    assert gradient[0, :, :, :4].any() and gradient[1].any()
    nothing = [torch.full((64, 64), 255)] * 2
    losses = model.loss(*seg_batch(model, nothing))
    assert losses['f.loss'] == 0
    total(losses).backward()
    for name, p in model.named_parameters():
        if name.startswith(('backbone.layer2', 'distillation')):
            assert p.grad is not None and p.grad.isfinite().all(), name


def test_a_loss_that_asks_for_labels_says_so_to_detectors():
    with pytest.raises(ValueError, match=r"term 'f': IFVLoss asks for label, which the student"):
        distil(
            detector(), teacher=random_teacher(detector()),
            terms=dict(f=dict(type='FeatureKD', tap='neck[0]', loss=dict(type='IFVLoss'))),
        )  # fmt: skip


def queues(model):
    return {
        f'{name}.{kind}.{key}': x
        for name, loss in model.distillation.named_modules()
        for kind, queue in getattr(loss, 'queues', {}).items()
        for key, x in queue.contents.items()
    }


def test_a_copy_has_no_queue_and_the_device_moves_it():
    model = taught('memory')
    stock = {name: x.clone() for name, x in queues(model).items()}
    assert len(stock) == 4
    copied = copy.deepcopy(model)
    assert queues(copied) == {}
    tensors = [[n for n, _ in (*m.named_parameters(), *m.named_buffers())] for m in (model, copied)]
    assert tensors[0] == tensors[1]
    copied.double()
    assert differences(stock, queues(model)) == []
    model.loss(*seg_batch(model))
    assert differences(stock, queues(model)) == sorted(stock)
    assert not any('distillation' in name for name in model.state_dict())
    model.to('meta')
    assert {x.device.type for x in queues(model).values()} == {'meta'}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp('data'))


def run(root, work_dir, **changes):
    term = dict(type='FeatureKD', tap='decode_head.convs', loss=MEMORY)
    model = toy_distiller('seg', terms=dict(memory=term), exits=None)
    return train(
        toy_config('seg', root, work_dir, model, 4, flip=False, save_interval=2, **changes)
    )


@pytest.mark.parametrize('buffers', [pytest.param(False, marks=pytest.mark.slow), True])
def test_queues_are_resumed_bit_for_bit_and_averaged_by_nobody(buffers, root, tmp_path):
    ema = dict(update_buffers=buffers)
    whole, _ = run(root, tmp_path / 'whole', ema=ema)
    averaged = next(h for h in whole.hooks if isinstance(h, EMAHook)).ema_model.module
    assert queues(averaged) == {}
    names = [
        [n for n, _ in (*m.named_parameters(), *m.named_buffers())] for m in (whole.model, averaged)
    ]
    assert names[0] == names[1]
    saved = torch.load(tmp_path / 'whole' / 'iter_2.pth', weights_only=False)
    parts = saved['distill_state']['parts']['terms.memory']
    assert {n: tuple(x.shape) for n, x in parts.items() if 'queues' in n} == {
        'losses.0.queues.pixels.keys': (3, 30, 16),
        'losses.0.queues.pixels.next_slot': (3,),
        'losses.0.queues.regions.keys': (3, 6, 16),
        'losses.0.queues.regions.next_slot': (3,),
    }
    assert not any('queues' in n for n in saved['distill_state']['ema']['terms.memory'])
    assert not any('distillation' in n for n in (*saved['state_dict'], *saved['ema_state_dict']))
    torch.manual_seed(99)
    load = dict(load_from=str(tmp_path / 'whole' / 'iter_2.pth'), resume=True)
    resumed, _ = run(root, tmp_path / 'resumed', ema=ema, **load)
    assert len(queues(whole.model)) == 4
    assert differences(queues(whole.model), queues(resumed.model)) == []
    assert differences(run_state(whole), run_state(resumed)) == []
    halfway = {n.removeprefix('losses.0.queues.'): x for n, x in parts.items() if 'queues' in n}
    now = {n.split('losses.0.')[1]: x for n, x in queues(resumed.model).items()}
    assert differences(halfway, now) == sorted(now)
