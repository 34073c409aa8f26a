"""KD off is the baseline: a student that nothing teaches trains as stock does, bit for bit."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmdet.models import RetinaNet
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner

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
ROOT = Path(__file__).resolve().parents[1]
SETTINGS = dict(
    bf16=dict(),
    ema=dict(ema=dict(update_buffers=False)),
    ema_buffers=dict(ema=dict(update_buffers=True)),
)
CASES = [
    (kind, setting, 'weights 0') for kind in ('det', 'seg') for setting in SETTINGS
] + [('det', 'ema_buffers', 'nothing'), ('seg', 'ema', 'nothing')]  # fmt: skip


@MMDET_MODELS.register_module()
class EpochAwareRetinaNet(RetinaNet):
    """A student that weighs its class loss by the epoch that a hook tells it."""

    def set_epoch(self, epoch: int) -> None:
        self.bbox_head.loss_cls.loss_weight = 1.0 + epoch


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp('data'))


@pytest.fixture
def autocast(monkeypatch):
    """A function after which every training step runs under bfloat16 autocast."""

    def switch_on():
        step = BaseModel.train_step

        def train_step(self, data, optim_wrapper):
            with torch.autocast('cpu', torch.bfloat16):
                return step(self, data, optim_wrapper)

        monkeypatch.setattr(BaseModel, 'train_step', train_step)
        # two runs of stock itself differ with oneDNN's bfloat16 convolutions
        monkeypatch.setattr(torch.backends.mkldnn, 'enabled', False)

    return switch_on


@pytest.fixture(scope='module')
def stock_runs():
    return {}


def assert_same_run(stock, ours):
    """Losses and all that was learnt are equal, and nothing that is not the student moved."""
    (stock_runner, stock_losses), (runner, losses) = stock, ours
    assert [differences(a, b) for a, b in zip(stock_losses, losses, strict=True)] == [[]] * len(
        losses
    )
    state = run_state(runner)
    student = {name: value for name, value in state.items() if 'distillation.' not in name}
    expected = stock_runner if isinstance(stock_runner, dict) else run_state(stock_runner)
    assert differences(expected, student) == []
    assert any(name.endswith('.momentum_buffer') for name in student)
    extra = [name for name in state if 'distillation.' in name]
    assert not [name for name in extra if 'momentum_buffer' in name]


def compare(kind, root, tmp_path, student=None, iters=4, teacher=None, **settings):
    """Trains stock and the same with all weights 0; returns the second run."""
    student = student or toy_model(kind)
    teacher = dict(config=teacher or dict(student), checkpoint=None, classes='same')
    changes = dict(student=student, teacher=teacher)
    if student['type'] == 'YOLOX':
        changes.update(terms=dict(neck=dict(type='FeatureKD', tap='neck')), exits={})
    stock = train(toy_config(kind, root, tmp_path / 'stock', student, iters, **settings))
    model = toy_distiller(kind, off=True, **changes)
    ours = train(toy_config(kind, root, tmp_path / 'off', model, iters, **settings))
    assert type(ours[0].model).__name__ == f'Distilled{student["type"]}'
    assert_same_run(stock, ours)
    return ours


@pytest.mark.parametrize(('kind', 'setting', 'off'), CASES)
def test_20_steps_are_bit_identical(kind, setting, off, root, tmp_path, autocast, stock_runs):
    if setting == 'bf16':
        autocast()
    options = SETTINGS[setting]
    if (kind, setting) not in stock_runs:
        runner, losses = train(toy_config(kind, root, tmp_path / 'stock', **options))
        stock_runs[kind, setting] = run_state(runner), losses
    if off == 'nothing':
        model = toy_distiller(kind, terms=None, exits=None, teacher=None)
    else:
        model = toy_distiller(kind, off=True)
    ours = train(toy_config(kind, root, tmp_path / 'off', model, **options))
    assert len(ours[1]) == 20
    assert_same_run(stock_runs[kind, setting], ours)


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_real_weights_are_not_the_baseline(kind, root, tmp_path):
    """The comparison above can fail: with its terms on, the same run learns something else."""
    stock, losses = train(toy_config(kind, root, tmp_path / 'stock', iters=2))
    runner, taught = train(toy_config(kind, root, tmp_path / 'on', toy_distiller(kind), iters=2))
    assert 'kd.loss_cls' in taught[0] or 'kd.loss_seg' in taught[0]
    ours = run_state(runner)
    assert 'model.backbone.conv1.weight' in ours or 'model.backbone.stem.0.weight' in ours
    moved = differences(run_state(stock), {k: v for k, v in ours.items() if 'distill' not in k})
    assert len(moved) > 20
    assert not differences(
        {k: v for k, v in losses[0].items() if k != 'loss'},
        {k: v for k, v in taught[0].items() if k in losses[0] and k != 'loss'},
    )


# What users rely on.
LAYER_DECAY = dict(
    constructor='LearningRateDecayOptimizerConstructor',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.05),
    paramwise_cfg=dict(num_layers=4, decay_rate=0.5, decay_type='layer_wise'),
)
CUSTOM_KEYS = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={'backbone': dict(lr_mult=0.1), 'neck.fpn': dict(lr_mult=3.0, decay_mult=0.5)},
    ),
)


def _transformer():
    """A segmentor on a vision transformer, whose layers have learning rates of their own."""
    model = toy_model('seg')
    model['backbone'] = dict(
        type='MAE', img_size=(64, 64), patch_size=16, embed_dims=16, num_layers=4, num_heads=2,
        mlp_ratio=2, out_indices=(0, 1, 2, 3), drop_path_rate=0.2,
    )  # fmt: skip
    for head in ('decode_head', 'auxiliary_head'):
        model[head]['in_channels'] = 16
    return model


@pytest.mark.parametrize(
    ('kind', 'student', 'wrapper', 'rates'),
    [('seg', _transformer, LAYER_DECAY, 6), ('det', lambda: toy_model('det'), CUSTOM_KEYS, 3)],
    ids=['layer decay', 'custom_keys'],
)
def test_parameters_keep_their_groups(kind, student, wrapper, rates, root, tmp_path):
    settings = dict(optim_wrapper=dict(type='OptimWrapper', **wrapper))
    runner, _ = compare(kind, root, tmp_path, student(), 3, **settings)
    state = run_state(runner)
    own = {n: v for n, v in state.items() if n.endswith('.lr') and 'distillation.' not in n}
    assert len({float(v) for v in own.values()}) == rates
    model = toy_distiller(
        kind,
        student=student(),
        teacher=dict(config=student(), checkpoint=None, classes='same'),
        exits={} if student is _transformer else toy_distiller(kind)['exits'],
    )
    taught = Runner.from_cfg(toy_config(kind, root, tmp_path / 'on', model, **settings))
    taught.optim_wrapper = taught.build_optim_wrapper(taught.optim_wrapper)
    taught = run_state(taught)
    groups = [n for n in state if n.endswith(('.lr', '.weight_decay')) and 'distill' not in n]
    assert groups
    assert not [n for n in groups if not torch.equal(state[n], taught[n])]


def _yolox(width: float) -> dict:
    channels = [int(n * width) for n in (256, 512, 1024)]
    losses = {
        f'loss_{name}': dict(type='CrossEntropyLoss', use_sigmoid=True, reduction='sum')
        for name in ('cls', 'obj')
    }
    return dict(
        _scope_='mmdet',
        type='YOLOX',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[0.0] * 3, std=[1.0] * 3, pad_size_divisor=32,
            batch_augments=[
                dict(
                    type='BatchSyncRandomResize', random_size_range=(64, 128), size_divisor=32,
                    interval=2,
                )
            ],
        ),
        backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=width),
        neck=dict(type='YOLOXPAFPN', in_channels=channels, out_channels=16, num_csp_blocks=1),
        bbox_head=dict(
            type='YOLOXHead', num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1,
            loss_bbox=dict(type='IoULoss', mode='square', eps=1e-16, reduction='sum'),
            loss_l1=dict(type='L1Loss', reduction='sum'), **losses,
        ),
        train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
        test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)),
    )  # fmt: skip


def test_yolox_switches_its_mode(root, tmp_path):
    """Mosaic, mixup and multi-scale images, then the L1 loss without them, as YOLOX trains."""
    inner = toy_config('det', root, tmp_path).train_dataloader.dataset.to_dict()
    pack = inner['pipeline'][-1]
    inner['pipeline'] = inner['pipeline'][:2]
    mixed = dict(
        type='MultiImageMixDataset',
        dataset=inner,
        pipeline=[
            dict(type='Mosaic', img_scale=(64, 64)),
            dict(type='RandomAffine', scaling_ratio_range=(0.5, 1.5), border=(-32, -32)),
            dict(type='MixUp', img_scale=(64, 64), ratio_range=(0.8, 1.6)),
            dict(type='YOLOXHSVRandomAug'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='Resize', scale=(64, 64), keep_ratio=True),
            dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
            pack,
        ],
    )
    settings = dict(
        by_epoch=True,
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=mixed,
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        custom_hooks=[
            dict(type='YOLOXModeSwitchHook', num_last_epochs=1, priority=48),
            dict(type='SyncNormHook', priority=48),
            dict(type='EMAHook', ema_type='ExpMomentumEMA', update_buffers=True, priority=49),
        ],
    )  # fmt: skip
    runner, losses = compare(
        'det', root, tmp_path, _yolox(0.125), 3, teacher=_yolox(0.25), **settings
    )
    assert runner.model.bbox_head.use_l1
    assert 'loss_l1' in losses[-1] and 'loss_l1' not in losses[0]


def test_pipeline_switch_and_epochs_reach_the_student(root, tmp_path):
    dataset = toy_config('det', root, tmp_path).train_dataloader.dataset.to_dict()
    plain = dataset['pipeline']
    mosaic = dict(type='CachedMosaic', img_scale=(64, 64), max_cached_images=8)
    dataset['pipeline'] = [*plain[:2], mosaic, *plain[2:]]
    settings = dict(
        by_epoch=True,
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=dataset,
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        custom_hooks=[
            dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=plain),
            dict(type='SetEpochInfoHook'),
        ],
    )  # fmt: skip
    student = dict(toy_model('det'), type='EpochAwareRetinaNet')
    runner, _ = compare('det', root, tmp_path, student, 2, **settings)
    assert runner.model.bbox_head.loss_cls.loss_weight == 2.0
    names = [type(t).__name__ for t in runner.train_dataloader.dataset.pipeline.transforms]
    assert 'CachedMosaic' not in names


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_load_from_accumulation_and_ema_on_a_device(kind, root, tmp_path):
    torch.manual_seed(7)
    stock = MODELS.build(toy_model(kind))
    stock.init_weights()
    torch.save(dict(state_dict=stock.state_dict(), meta={}), tmp_path / 'stock.pth')
    settings = dict(
        load_from=str(tmp_path / 'stock.pth'),
        ema=dict(device='cpu', begin_iter=2),
        optim_wrapper=dict(
            type='OptimWrapper',
            accumulative_counts=2,
            optimizer=dict(type='SGD', lr=0.01, momentum=0.9),
        ),
    )
    runner, _ = compare(kind, root, tmp_path, iters=5, **settings)
    copies = [h.ema_model.module for h in runner.hooks if hasattr(h, 'ema_model')]
    assert [c.distillation.teachers for c in copies] == [None]
    assert runner.model.distillation.teachers
    start = stock.state_dict()
    assert set(start) == set(runner.model.state_dict())


def test_stock_mmdet_tool_trains_it(root, tmp_path):
    """mmdet's own tools/train.py, from its installed package, on a distillation that teaches."""
    cfg = toy_config('det', root, tmp_path / 'run', toy_distiller('det'), 2, save_interval=2)
    cfg.dump(str(tmp_path / 'kd.py'))
    tool = Path(find_spec('mmdet').origin).parent / '.mim' / 'tools' / 'train.py'
    paths = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, str(tool), str(tmp_path / 'kd.py')],
        env={**os.environ, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1'},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    saved = torch.load(tmp_path / 'run' / 'iter_2.pth', weights_only=False)
    assert set(saved['distill_state']['parts']) == {'terms.kd', 'terms.feature', 'exits.stages'}
    stock = MODELS.build(toy_model('det'))
    stock.load_state_dict(saved['state_dict'], strict=True)
