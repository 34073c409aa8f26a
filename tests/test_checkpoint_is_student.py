"""Every checkpoint is the student, and so is every copy of a distilled model."""

import copy
import pickle

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmkd.testing import (
    differences,
    toy_batch,
    toy_config,
    toy_distiller,
    toy_model,
    train,
    write_toy_data,
)

torch.set_num_threads(1)
KINDS = ('det', 'seg')


@pytest.fixture(scope='module', params=KINDS)
def run(request, tmp_path_factory):
    """A finished run with terms and exits, validation and EMA: its kind, runner and folder."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    root = write_toy_data(folder / 'data')
    cfg = toy_config(
        kind, root, folder / 'run', toy_distiller(kind), iters=4, val_interval=2, save_interval=2,
        ema=dict(update_buffers=True),
    )  # fmt: skip
    runner, _ = train(cfg)
    return kind, runner, folder / 'run'


def _stock(kind, state_dict=None):
    init_default_scope(f'mm{kind}')
    model = MODELS.build(toy_model(kind))
    if state_dict is not None:
        model.load_state_dict(state_dict, strict=True)
    return model


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _files(folder):
    return sorted(folder.glob('*.pth'))


def test_each_kind_of_file_was_written(run):
    _, _, folder = run
    names = [file.name for file in _files(folder)]
    assert [name for name in names if name.startswith('best_')]
    assert {'iter_2.pth', 'iter_4.pth'} <= set(names)
    assert (folder / 'last_checkpoint').read_text().endswith('iter_4.pth')


def test_every_file_is_a_plain_student(run):
    kind, runner, folder = run
    teacher = runner.model.distillation.teachers[None].model
    weights = [p for p in teacher.parameters() if p.dim() > 1]
    assert weights
    for file in _files(folder):
        saved = torch.load(file, map_location='cpu', weights_only=False)
        stock = _stock(kind, saved['state_dict'])
        assert list(stock.state_dict()) == list(saved['state_dict'])
        averaged = saved['ema_state_dict']
        assert not [name for name in averaged if 'distillation' in name]
        _stock(kind, {k[7:]: v for k, v in averaged.items() if k.startswith('module.')})
        state = saved['distill_state']
        assert set(state['parts']) == {'terms.kd', 'terms.feature', 'exits.stages'}
        assert set(state['ema']) == set(state['parts'])
        assert state['parts']['exits.stages']
        for tensor in _tensors(saved):
            same = [w for w in weights if w.shape == tensor.shape and torch.equal(w, tensor)]
            assert not same, file.name


def test_optimizer_holds_no_teacher(run):
    _, runner, folder = run
    model = runner.model
    saved = torch.load(folder / 'iter_4.pth', weights_only=False)
    indices = [i for group in saved['optimizer']['param_groups'] for i in group['params']]
    assert len(indices) == len(list(model.parameters()))
    theirs = {id(p) for p in model.distillation.teachers[None].model.parameters()}
    groups = runner.optim_wrapper.optimizer.param_groups
    assert not [p for group in groups for p in group['params'] if id(p) in theirs]


def test_the_students_own_config_lies_beside_the_run(run):
    kind, _, folder = run
    (file,) = folder.glob('*.student.py')
    assert 'mmkd' not in file.read_text()
    cfg = Config.fromfile(str(file))
    init_default_scope(cfg.default_scope)
    student = MODELS.build(cfg.model)
    assert type(student).__name__ == toy_model(kind)['type']
    state = torch.load(folder / 'iter_4.pth', weights_only=False)['state_dict']
    student.load_state_dict(state, strict=True)
    cfg.merge_from_dict(dict(work_dir=str(folder / 'stock'), experiment_name=f'stock_{kind}'))
    cfg.train_cfg.max_iters = 1
    trained, losses = train(cfg)
    assert type(trained.model) is type(student)
    assert not [name for name in losses[0] if name.startswith(('kd.', 'feature.', 'stages.'))]


@pytest.mark.parametrize('how', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_a_plain_working_student(run, how):
    kind, runner, _ = run
    model = runner.model
    twin = how(model)
    stock = _stock(kind, model.state_dict())
    assert type(twin) is type(model)
    assert twin.distillation.teachers is None
    assert model.distillation.teachers
    assert differences(dict(model.state_dict()), dict(twin.state_dict())) == []
    assert twin.state_dict().keys() == stock.state_dict().keys()

    inputs, samples = toy_batch(stock)
    states = []
    for student in (stock, twin):
        torch.manual_seed(0)
        losses = student.train().loss(inputs, copy.deepcopy(samples))
        states.append({k: torch.stack(v) if isinstance(v, list) else v for k, v in losses.items()})
    assert differences(*states) == []
    torch.manual_seed(0)
    taught = model.train().loss(inputs, copy.deepcopy(samples))
    assert set(taught) - set(states[0]), 'the original still teaches'
    how(twin).double()
    teacher = model.distillation.teachers[None].model
    assert {p.dtype for p in [*model.parameters(), *teacher.parameters()]} == {torch.float32}

    with torch.no_grad():
        found = [m.eval().predict(inputs, copy.deepcopy(samples)) for m in (stock, twin)]
    for ours, expected in zip(found[1], found[0], strict=True):
        if kind == 'det':
            pairs = ('bboxes', 'scores', 'labels')
            a, b = ours.pred_instances, expected.pred_instances
            assert len(b) > 0
            assert all(torch.equal(a[name], b[name]) for name in pairs)
        else:
            assert torch.equal(ours.seg_logits.data, expected.seg_logits.data)
