"""An interrupted and resumed distillation equals the uninterrupted one, bit for bit."""

import pytest
import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import init_default_scope
from torch import nn

from mmkd.hooks import DistillHook
from mmkd.registry import MODELS
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
EMA = dict(update_buffers=True)


@MODELS.register_module()
class DroppingAdapter(nn.Module):
    """A user's own adapter, with Dropout."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.Dropout2d(0.3))

    def forward(self, x):
        return self.body(x)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp('data'))


def _student(kind: str) -> dict:
    """A student with Dropout: FCN heads have it, a Swin transformer too."""
    model = toy_model(kind)
    if kind == 'det':
        model['backbone'] = dict(
            type='SwinTransformer', embed_dims=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1),
            window_size=4, drop_rate=0.1, drop_path_rate=0.2,
        )  # fmt: skip
    return model


def _distiller(kind: str) -> dict:
    model = toy_distiller(kind, student=_student(kind))
    exits = {name: dict(cfg) for name, cfg in model['exits'].items()}
    if kind == 'det':
        exits['stages']['adapter'] = dict(type='DroppingAdapter')
    return dict(model, exits=exits)


def _config(kind, root, work_dir, by_epoch, model=None, best=True, **changes):
    length = dict(iters=3, save_interval=1) if by_epoch else dict(iters=6, save_interval=2)
    cfg = toy_config(
        kind, root, work_dir, model or _distiller(kind), flip=False, by_epoch=by_epoch,
        val_interval=2 if by_epoch else 4, ema=dict(EMA, update_buffers=kind == 'seg'),
        **{**length, **changes},
    )  # fmt: skip
    if not best:
        cfg.default_hooks.checkpoint.save_best = None
    return cfg


@pytest.mark.parametrize(
    ('kind', 'by_epoch', 'best'),
    [('det', True, True), ('seg', False, True), ('det', False, False), ('seg', True, False)],
    ids=['det epochs best', 'seg iterations best', 'det iterations', 'seg epochs'],
)
def test_resumed_equals_uninterrupted(kind, by_epoch, best, root, tmp_path):
    """Saves with and without a validation to follow; everything that is learnt is compared.

    With a best checkpoint, mmengine writes the second file again after its validation.
    """
    whole, losses = train(_config(kind, root, tmp_path / 'whole', by_epoch, best=best))
    expected = run_state(whole)
    dropouts = [m for m in whole.model.modules() if isinstance(m, (nn.Dropout, nn.Dropout2d))]
    assert [m for m in dropouts if m.p > 0]
    for part in ('optimizer.distillation.', 'ema.distillation.', 'model.distillation.'):
        assert [name for name in expected if name.startswith(part)]
    files = {'epoch_1.pth': 4, 'epoch_2.pth': 8} if by_epoch else {'iter_2.pth': 2, 'iter_4.pth': 4}
    for name, done in files.items():
        torch.manual_seed(99)  # a new process would be elsewhere in its random stream, too
        load = dict(load_from=str(tmp_path / 'whole' / name), resume=True)
        cfg = _config(kind, root, tmp_path / f'from_{name}', by_epoch, best=best, **load)
        resumed, rest = train(cfg)
        assert len(rest) == len(losses) - done
        assert [differences(a, b) for a, b in zip(losses[done:], rest)] == [[]] * len(rest), name
        assert differences(expected, run_state(resumed)) == [], name


def test_without_its_random_states_a_run_is_another(root, tmp_path, monkeypatch):
    """The comparison above can fail: Dropout draws something else."""
    settings = dict(iters=3, save_interval=1)
    whole, _ = train(_config('seg', root, tmp_path / 'whole', False, **settings))
    monkeypatch.setattr(DistillHook, '_restore', lambda hook: setattr(hook, '_resumed', None))
    load = dict(load_from=str(tmp_path / 'whole' / 'iter_1.pth'), resume=True)
    resumed, _ = train(_config('seg', root, tmp_path / 'again', False, **settings, **load))
    assert differences(run_state(whole), run_state(resumed))


@pytest.fixture(scope='module')
def short_run(root, tmp_path_factory):
    """A distillation of 2 iterations: its folder."""
    folder = tmp_path_factory.mktemp('short')
    runner, _ = train(_short(root, folder))
    return folder / 'iter_2.pth', runner.model.state_dict()


def _short(root, folder, model=None, iters=2, **changes):
    model = model or toy_distiller('seg')
    settings = dict(flip=False, ema=EMA, save_interval=2)
    return toy_config('seg', root, folder, model, iters, **{**settings, **changes})


def _edited(change: str) -> dict:
    model = toy_distiller('seg')
    terms, exits = dict(model['terms']), dict(model['exits'])
    if change == 'gone':
        terms.pop('kd')
    elif change == 'new':
        terms['more'] = dict(type='FeatureKD', tap='backbone[0]')
    else:
        exits['stages'] = dict(exits['stages'], channels=4)
    return dict(model, terms=terms, exits=exits)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ('gone', 'terms.kd is gone'),
        ('new', 'terms.more is new'),
        ('other', 'exits.stages has other parameters'),
    ],
)
def test_edited_terms_do_not_resume(change, said, short_run, root, tmp_path):
    load = dict(load_from=str(short_run[0]), resume=True)
    with pytest.raises(ValueError) as caught:
        train(_short(root, tmp_path, _edited(change), iters=4, **load))
    message = str(caught.value)
    assert said in message and 'load_from' in message
    assert '\n' not in message


def test_a_stock_checkpoint_does_not_resume(root, tmp_path):
    train(_short(root, tmp_path / 'stock', toy_model('seg')))
    load = dict(load_from=str(tmp_path / 'stock' / 'iter_2.pth'), resume=True)
    with pytest.raises(ValueError, match=r'no distill_state.*load_from'):
        train(_short(root, tmp_path / 'kd', iters=4, **load))


@pytest.mark.parametrize('target', ['stock', 'gone', 'other'])
def test_a_distilled_checkpoint_is_a_start(target, short_run, root, tmp_path):
    """By ``load_from``, into the stock student and into an edited distillation."""
    file, _ = short_run
    saved = torch.load(file, weights_only=False)['state_dict']
    model = toy_model('seg') if target == 'stock' else _edited(target)
    frozen = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
    runner, losses = train(_short(root, tmp_path, model, load_from=str(file), optim_wrapper=frozen))
    assert len(losses) == 2
    weights = dict(runner.model.named_parameters())
    loaded = {name: value for name, value in saved.items() if name in weights}
    assert len(loaded) > 20
    own = {n: p.detach() for n, p in weights.items() if not n.startswith('distillation.')}
    assert differences(loaded, own) == []


def test_a_distilled_checkpoint_is_a_stock_checkpoint(short_run):
    file, _ = short_run
    init_default_scope('mmseg')
    stock = MMENGINE_MODELS.build(toy_model('seg'))
    stock.load_state_dict(torch.load(file, weights_only=False)['state_dict'], strict=True)
