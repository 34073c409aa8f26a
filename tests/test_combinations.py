"""What users combine with a distillation: mixed precision, accumulation, SyncBN, checkpointing."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn
from toys import batch_for, detector, distil, random_teacher, segmentor, total

from mmkd.testing import (
    differences,
    run_state,
    toy_config,
    toy_distiller,
    toy_model,
    train,
    write_toy_data,
)

torch.set_num_threads(1)
MODELS = dict(det=detector, seg=segmentor)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp('data'))


def taught(kind: str, backbone=None, teacher_backbone=None, **keys) -> nn.Module:
    """A student with predictions, features with a projection, and exits with all three switches."""
    make = MODELS[kind]
    exit_type = dict(det='DenseExit', seg='SegExit')[kind]
    settings = dict(
        terms=dict(
            kd=dict(type='LogitKD'),
            pkd=dict(type='FeatureKD', tap='backbone[2:]', loss=dict(type='PKDLoss')),
        ),
        exits=dict(early=dict(type=exit_type, tap='backbone[1:]', feat=0.5)),
        teacher=random_teacher(make(width=16, backbone=teacher_backbone)),
    )
    return distil(make(backbone=backbone), **{**settings, **keys})


def gradients(model: nn.Module) -> dict:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def step(model, dtype=None, scale: float = 1.0) -> tuple[dict, dict, dict]:
    """Losses, gradients and shares of one step; under autocast where a dtype is given."""
    inputs, samples = batch_for(model)
    model.distillation.shares.start(True)
    with torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None):
        losses = model.loss(inputs, samples)
    (total(losses) * scale).backward()
    added = {n: v for n, v in losses.items() if n.split('.')[0] in ('kd', 'pkd', 'early')}
    return added, gradients(model), model.distillation.shares.read()


@pytest.mark.parametrize('kind', ['det', 'seg'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_teaches_the_same_in_full_precision_losses(kind, dtype):
    """Every loss stays float32 and is what it was, to the few bits that the models have left."""
    expected, _, _ = step(taught(kind))
    losses, found, _ = step(taught(kind), dtype)
    assert losses.keys() == expected.keys() and len(losses) >= 4
    for name, value in losses.items():
        value, wanted = (sum(v) if isinstance(v, list) else v for v in (value, expected[name]))
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, wanted, rtol=0.1, atol=1e-3, msg=name)
    extra = [g for name, g in found.items() if name.startswith('distillation.')]
    assert extra
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in extra)


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_a_loss_scale_cancels_in_the_gradient_shares(kind):
    """A power of two is exact in every product, so the shares are equal to the last bit."""
    _, plain, shares = step(taught(kind))
    _, scaled, scaled_shares = step(taught(kind), scale=2.0**10)
    assert shares == scaled_shares and shares.keys() >= {'kd', 'pkd', 'early'}
    for name, gradient in scaled.items():
        assert torch.equal(gradient / 2**10, plain[name]), name


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_a_gradient_scaler_steps_the_student_and_its_exits(kind):
    """float16 with torch's own scaler; a step whose gradients overflow changes nothing."""
    model = taught(kind)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, samples = batch_for(model)
    for overflow in (False, True):
        before = copy.deepcopy(dict(model.named_parameters()))
        optimizer.zero_grad()
        with torch.autocast('cpu', torch.float16):
            loss = total(model.loss(inputs, samples))
        scaler.scale(loss * float('inf') if overflow else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = differences(before, dict(model.named_parameters()))
        extra = [n for n in moved if n.startswith('distillation.')]
        assert (moved == []) if overflow else (len(moved) > len(extra) > 0)


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_accumulation_is_the_mean_of_its_micro_batches(kind):
    """mmengine's wrapper against a loop written by hand, student and exits, bit for bit."""
    models = [taught(kind), taught(kind)]
    batches = [batch_for(models[0], seed=seed) for seed in (0, 1)]
    wrapper = OptimWrapper(
        torch.optim.SGD(models[0].parameters(), lr=0.1, momentum=0.9), accumulative_counts=2
    )
    optimizer = torch.optim.SGD(models[1].parameters(), lr=0.1, momentum=0.9)
    wrapper.initialize_count_status(models[0], 0, 4)
    for _ in range(2):
        for seed, (inputs, samples) in enumerate(batches):
            torch.manual_seed(seed)  # exits have Dropout
            wrapper.update_params(total(models[0].loss(inputs, samples)))
            torch.manual_seed(seed)
            (total(models[1].loss(inputs, samples)) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    ours, theirs = (dict(model.named_parameters()) for model in models)
    assert differences(ours, theirs) == []
    assert differences(ours, dict(taught(kind).named_parameters()))


def _synced(cfg):
    """A config with SyncBN wherever it has BN."""
    if isinstance(cfg, dict):
        return {k: _synced(v) for k, v in cfg.items()}
    return 'SyncBN' if cfg == 'BN' else cfg


def _synced_layers(model: nn.Module) -> int:
    return sum(isinstance(m, nn.SyncBatchNorm) for m in model.modules())


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_sync_bn_in_one_process_is_batch_norm(kind, root, tmp_path):
    """In student and exits, where mmengine reverts it, and in the teacher, where it is left.

    Two processes: tests/hooks/two_ranks.py.
    """
    states = []
    for name, change in (('bn', dict), ('sync', _synced)):
        student, teacher = change(toy_model(kind)), change(toy_model(kind, width=8))
        teacher = dict(config=teacher, checkpoint=None, classes='same')
        model = toy_distiller(kind, student=student, teacher=teacher)
        runner, _ = train(toy_config(kind, root, tmp_path / name, model, 3))
        heard = runner.model.distillation.teachers[None].model
        counts = [_synced_layers(x) for x in (runner.model, heard)]
        assert counts[0] == 0 and bool(counts[1]) == (name == 'sync')
        states.append(run_state(runner))
    assert differences(*states) == []


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_checkpointed_blocks_in_student_and_teacher_change_no_loss_and_no_gradient(kind):
    """A frozen teacher has nothing to recompute; the student's blocks are recomputed once."""
    results = []
    for with_cp in (False, True):
        backbone = dict(with_cp=with_cp)
        model = taught(kind, backbone, teacher_backbone=backbone)
        assert model.backbone.layer1[0].with_cp == with_cp
        assert model.distillation.teachers[None].model.backbone.layer1[0].with_cp == with_cp
        results.append(step(model))
    (losses, plain, shares), (again, recomputed, again_shares) = results
    for name, value in losses.items():
        pair = (sum(v) if isinstance(v, list) else v for v in (value, again[name]))
        assert torch.equal(*pair), name
    assert differences(plain, recomputed) == []
    assert shares == again_shares


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_mmengines_activation_checkpointing(kind, root, tmp_path):
    """Taps on checkpointed modules see the same; BatchNorm in eval mode, since it would run twice.

    Gradients are equal up to rounding, as they are in stock, where the same steps differ as much.
    A tap inside such a module gives a tensor without gradient, and is refused.
    """
    student = toy_model(kind)
    student['backbone']['norm_eval'] = True
    teacher = dict(config=toy_model(kind, width=8), checkpoint=None, classes='same')
    tap = dict(type='FeatureKD', tap='backbone.layer3')
    changes = dict(student=student, teacher=teacher, terms=dict(f=tap))
    runs = []
    for name, modules in (('plain', None), ('recomputed', ['backbone.layer2', 'backbone.layer3'])):
        cfg = toy_config(kind, root, tmp_path / name, toy_distiller(kind, **changes), 1)
        cfg.activation_checkpointing = modules
        runner, losses = train(cfg)
        runs.append((run_state(runner), losses[0]))
    (state, losses), (recomputed, again) = runs
    assert 'f.loss' in losses
    assert differences(losses, again) == []
    for name, value in state.items():
        torch.testing.assert_close(recomputed[name], value, msg=name)
    changes['terms'] = dict(f=dict(tap, tap='backbone.layer3.1.conv1'))
    cfg = toy_config(kind, root, tmp_path / 'inside', toy_distiller(kind, **changes), 3)
    cfg.activation_checkpointing = 'backbone.layer3'
    with pytest.raises(ValueError, match=r"term 'f': tap .*conv1.* lies inside .*layer3") as caught:
        train(cfg)
    assert '\n' not in str(caught.value)


@pytest.mark.slow
def test_a_compiled_step_teaches_the_same(root, tmp_path):
    """Taps that are listened to from a step on, and up to one; the graphs run as they were traced.

    mmengine compiles ``train_step``; losses, weights and gradient shares are equal bit for bit.
    """
    mse = dict(type='FeatureKD', loss=dict(type='FeatureMSE'))
    terms = dict(
        kd=dict(type='LogitKD'),
        inner=dict(mse, tap='backbone.layer3.0.conv1'),
        late=dict(mse, tap='backbone.layer2', schedule=dict(begin=3)),
        early=dict(mse, tap='backbone.layer4.1.conv1', schedule=dict(end=2)),
    )
    runs = []
    for compiled in (False, dict(backend='eager')):
        model = toy_distiller('seg', terms=terms)
        cfg = toy_config('seg', root, tmp_path / str(bool(compiled)), model, 6, compile=compiled)
        runner, losses = train(cfg)
        history = runner.message_hub.log_scalars
        shares = {n: list(h.data[0]) for n, h in history.items() if '.grad_' in n}
        runs.append((losses, run_state(runner), shares))
    (losses, state, shares), (again, compiled_state, compiled_shares) = runs
    assert [differences(a, b) for a, b in zip(losses, again, strict=True)] == [[]] * 6
    assert differences(state, compiled_state) == []
    assert shares == compiled_shares
    assert {name.split('/')[1].split('.')[0] for name in shares} == {*terms, 'stages'}
