"""Weight files: what is read, what is refused, and that a load is whole or not at all."""

import hashlib
import json
import os
import pickle
import threading
from collections import OrderedDict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch import nn

from mmkd.distillers.checkpoint import (
    Checkpoint,
    checkpoint_classes,
    load_strict,
    read_checkpoint,
)
from mmkd.distillers.model_source import resolve_model


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, inputs, sample_idx=None, mode='tensor'):
        x = self.bn(self.conv(torch.stack(inputs)))
        return dict(loss=x.square().mean()) if mode == 'loss' else x


class Pixels(BaseDataset):
    METAINFO = dict(classes=('cat', 'dog'), palette=[(0, 0, 0), (1, 2, 3)])

    def load_data_list(self):
        return [dict(inputs=torch.full((3, 4, 4), float(i))) for i in range(4)]


def weights(seed=0):
    torch.manual_seed(seed)
    return Tiny().state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope='module')
def runner_file(tmp_path_factory):
    """A checkpoint as a real run writes it, and the model that it was written from."""
    work_dir = tmp_path_factory.mktemp('run')
    model = Tiny()
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Pixels(lazy_init=False, pipeline=[]),
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        param_scheduler=[dict(type='CosineAnnealingLR', T_max=2)],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        experiment_name='checkpoint_test',
    )
    runner.message_hub.update_info('best_score', np.float64(0.5))
    runner.train()
    return work_dir / 'epoch_2.pth', model


def test_reads_what_a_real_run_writes(runner_file):
    path, model = runner_file
    with pytest.raises(Exception, match=r'HistoryBuffer|getattr|numpy'):
        torch.load(path, weights_only=True)  # the file does need stand-ins
    checkpoint = read_checkpoint(str(path))
    assert equal(checkpoint.state_dict, model.state_dict())
    assert checkpoint.state_dict._metadata['bn'] == {'version': 2}
    assert checkpoint.meta['epoch'] == 2
    assert checkpoint_classes(checkpoint.meta) == ('cat', 'dog')
    assert checkpoint.path == str(path)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_stand_ins_are_gone_after_reading(runner_file):
    before = torch.serialization.get_safe_globals()
    read_checkpoint(str(runner_file[0]))
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize('zipped', [True, False])
def test_bare_prefixed_and_legacy_files(tmp_path, zipped):
    path = tmp_path / 'w.pth'
    model = nn.DataParallel(Tiny())
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(str(path))
    assert equal(checkpoint.state_dict, model.module.state_dict())
    assert checkpoint.state_dict._metadata == model.module.state_dict()._metadata
    assert checkpoint.meta == {} and checkpoint_classes({}) is None


def test_classes_in_every_place_that_is_in_use(tmp_path):
    assert checkpoint_classes(dict(dataset_meta=dict(CLASSES=['a']))) == ('a',)
    assert checkpoint_classes(dict(CLASSES=('a', 'b'))) == ('a', 'b')
    assert checkpoint_classes(dict(dataset_meta=dict(palette=[]), CLASSES=('a',))) == ('a',)
    path = tmp_path / 'w.pth'
    meta = dict(dataset_meta=ConfigDict(classes=('a', 'b')), seen=slice(3))
    torch.save(dict(state_dict=weights(), meta=meta), path)
    assert checkpoint_classes(read_checkpoint(str(path)).meta) == ('a', 'b')


def test_safetensors(tmp_path):
    path = tmp_path / 'w.safetensors'
    save_file(dict(weights()), path, metadata={'classes': json.dumps(['x', 'y']), 'note': 'hi'})
    checkpoint = read_checkpoint(str(path))
    assert equal(checkpoint.state_dict, weights())
    assert checkpoint_classes(checkpoint.meta) == ('x', 'y') and checkpoint.meta['note'] == 'hi'
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match='truncated'):
        read_checkpoint(str(path))


class Command:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    'function, named',
    [(os.system, r'(posix|nt)\.system'), (eval, 'eval'), (__import__, '__import__')],
)
@pytest.mark.parametrize('zipped', [True, False])
def test_code_is_named_and_never_run(tmp_path, monkeypatch, function, named, zipped):
    monkeypatch.chdir(tmp_path)
    argument = {
        os.system: 'touch ran',
        eval: "open('ran', 'w')",
        __import__: 'ran_module',
    }[function]
    (tmp_path / 'ran_module.py').write_text("open('ran', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    content = dict(state_dict=weights(), meta=Command(function, argument))
    torch.save(content, 'evil.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=f'evil.pth holds code .*{named}.*safetensors') as caught:
        read_checkpoint('evil.pth')
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'ran').exists()


def test_the_stand_in_for_getattr_looks_nothing_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A pickle that takes `OrderedDict.fromkeys` by getattr, then calls what it got.
    source = pickle.dumps(Command(getattr, OrderedDict, 'fromkeys'), 2)
    torch.save(dict(state_dict=weights(), meta=Command(getattr, OrderedDict, 'fromkeys')), 'a.pth')
    assert b'getattr' in source and read_checkpoint('a.pth').meta == {}
    calling = source[:-1] + b')R.'  # an empty tuple, then a call of the value before it
    assert pickle.loads(source[:-1] + b'(]tR.') == OrderedDict()
    Path('b.pth').write_bytes(calling)
    with pytest.raises(ValueError, match=r'b\.pth .*unrecognized function'):
        read_checkpoint('b.pth')


@pytest.mark.parametrize('keep', [0, 10, 0.5, 0.98])
@pytest.mark.parametrize('zipped', [True, False])
def test_truncated(tmp_path, keep, zipped):
    path = tmp_path / 'w.pth'
    torch.save(dict(state_dict=weights()), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(ValueError, match=r'w\.pth is truncated') as caught:
        read_checkpoint(str(path))
    assert '\n' not in str(caught.value)


def test_missing_and_empty(tmp_path):
    with pytest.raises(ValueError, match=r"'nowhere/w\.pth' does not exist"):
        read_checkpoint('nowhere/w.pth')
    path = tmp_path / 'w.pth'
    torch.save(dict(model=weights(), epoch=3), path)
    with pytest.raises(ValueError, match=r'no tensors inside .*model, epoch'):
        read_checkpoint(str(path))
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match='holds a list'):
        read_checkpoint(str(path))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server of one folder; torch.hub's folder is elsewhere and empty."""
    served = tmp_path / 'served'
    served.mkdir()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub_home'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    seen = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            seen.append(self.path)

    http = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(served)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield served, f'http://127.0.0.1:{http.server_port}', seen
    http.shutdown()
    http.server_close()


def save_hashed(folder, seed=0, digest=None):
    torch.save(weights(seed), folder / 'tmp')
    content = (folder / 'tmp').read_bytes()
    name = f'tiny-{digest or hashlib.sha256(content).hexdigest()[:8]}.pth'
    (folder / name).write_bytes(content)
    return name


def test_url_is_downloaded_once_and_its_hash_checked(server, capfd):
    served, address, seen = server
    name = save_hashed(served)
    checkpoint = read_checkpoint(f'{address}/{name}')
    assert equal(checkpoint.state_dict, weights())
    assert checkpoint.path.endswith(f'checkpoints/{name}')
    out, err = capfd.readouterr()
    assert name in out and '100%' in err
    read_checkpoint(f'{address}/{name}')
    assert len(seen) == 1
    with open(checkpoint.path, 'ab') as file:
        file.write(b'!')
    with pytest.raises(ValueError, match=r'is damaged: its SHA-256 .* delete it'):
        read_checkpoint(f'{address}/{name}')


def test_url_with_a_wrong_hash_leaves_nothing(server, tmp_path):
    served, address, _ = server
    name = save_hashed(served, digest='0123abcd')
    with pytest.raises(ValueError, match='invalid hash value') as caught:
        read_checkpoint(f'{address}/{name}')
    assert '\n' not in str(caught.value)
    assert list((tmp_path / 'hub_home' / 'hub' / 'checkpoints').iterdir()) == []
    with pytest.raises(ValueError, match=r'cannot be downloaded \(HTTP Error 404'):
        read_checkpoint(f'{address}/absent.pth')


def test_urls_of_one_file_name_do_not_share_a_file(server):
    served, address, _ = server
    for seed, folder in enumerate(('a', 'b')):
        (served / folder).mkdir()
        torch.save(weights(seed), served / folder / 'best.pth')
    for seed, folder in enumerate(('a', 'b')):
        checkpoint = read_checkpoint(f'{address}/{folder}/best.pth')
        assert equal(checkpoint.state_dict, weights(seed))


@pytest.fixture
def saved(tmp_path):
    def save(state_dict):
        torch.save(state_dict, tmp_path / 'w.pth')
        return read_checkpoint(str(tmp_path / 'w.pth'))

    return save


def refusal(model, checkpoint):
    """The message of a refused load, which must leave the model as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_strict(model, checkpoint, "the teacher 'big'")
    assert equal(model.state_dict(), before)
    message = str(caught.value)
    assert '\n' not in message and message.startswith("the teacher 'big'")
    assert checkpoint.path in message
    return message


def test_load_fills_everything(saved):
    torch.manual_seed(1)
    model = Tiny()
    load_strict(model, saved(weights(0)), 'teacher')
    assert equal(model.state_dict(), weights(0))
    assert not model._load_state_dict_post_hooks


def test_load_refuses_gaps_and_other_shapes(saved):
    partial_weights = weights(0)
    del partial_weights['conv.bias'], partial_weights['bn.running_mean']
    message = refusal(Tiny(), saved(partial_weights))
    assert '2 of 6 weights are missing (conv.bias, bn.running_mean)' in message
    assert 'another architecture' not in message
    other = weights(0)
    other['conv.weight'] = torch.zeros(5, 3, 1, 1)
    message = refusal(Tiny(), saved(other))
    assert '1 have another shape (conv.weight: [5, 3, 1, 1] in the file, [4, 3, 1, 1] here)' in (
        message
    )
    del other['bn.weight']
    message = refusal(Tiny(), saved(other))
    assert '1 of 6 weights are missing (bn.weight)' in message and 'conv.weight: [5' in message


def test_load_refuses_another_architecture(saved):
    message = refusal(Tiny(), saved(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()))
    assert 'another architecture' in message and '6 of 6' in message


def test_counters_may_be_missing_and_extras_are_warned_of(saved, monkeypatch):
    said = []
    monkeypatch.setattr(
        'mmkd.distillers.checkpoint.print_log', lambda message, **kwargs: said.append(message)
    )
    state_dict = weights(0)
    del state_dict['bn.num_batches_tracked']
    load_strict(Tiny(), saved(state_dict), 'teacher')
    assert said == []
    for i in range(5):
        state_dict[f'aux.{i}'] = torch.zeros(1)
    load_strict(Tiny(), saved(state_dict), 'teacher')
    assert len(said) == 1
    assert '5 weights' in said[0] and 'aux.0, aux.1, aux.2, ...' in said[0]


def test_a_models_own_renaming_and_reshaping_take_part(saved):
    class Renamed(Tiny):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            if f'{prefix}old.weight' in state_dict:
                state_dict[f'{prefix}conv.weight'] = state_dict.pop(f'{prefix}old.weight')[
                    ..., None
                ]
            super()._load_from_state_dict(state_dict, prefix, *args)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Renamed()

    old = OrderedDict((f'inner.{name}', value) for name, value in weights(0).items())
    old['inner.old.weight'] = old.pop('inner.conv.weight')[..., 0]
    model = Outer()
    load_strict(model, saved(old), 'teacher')
    assert torch.equal(model.inner.conv.weight, weights(0)['conv.weight'])


def test_a_real_detector_and_its_variant():
    def build(classes):
        source = resolve_model(
            'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
            dict(
                backbone=dict(base_channels=8),
                neck=dict(in_channels=[8, 16, 32, 64], out_channels=8),
                bbox_head=dict(in_channels=8, feat_channels=8, num_classes=classes),
            ),
        )
        return MODELS.build(source.model)

    trained, model = build(4), build(4)
    load_strict(model, Checkpoint(trained.state_dict(), {}, 'w.pth', ''), 'teacher')
    assert equal(model.state_dict(), trained.state_dict())
    message = refusal(build(3), Checkpoint(trained.state_dict(), {}, 'w.pth', ''))
    assert '2 have another shape' in message
    assert 'bbox_head.retina_cls.weight: [36, 8, 3, 3] in the file, [27, 8, 3, 3] here' in message
