"""A package outside mmkd adds a loss, a region, an exit and a family, and no line to mmkd."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd.testing import toy_config, write_toy_data

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONFIG = HERE / 'kd-ds_centernet_r18-dcnv2_r18_coco.py'


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """Where the example is installed, as a user installs it."""
    folder = tmp_path_factory.mktemp('plugin')
    copy = shutil.copytree(HERE, folder / 'source', ignore=shutil.ignore_patterns('__pycache__'))
    options = ['--no-deps', '--no-build-isolation', '--target', str(folder / 'site')]
    command = [sys.executable, '-m', 'pip', 'install', '-q', *options, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder / 'site'


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    """The example's config at toy size, for two steps."""
    folder = tmp_path_factory.mktemp('toy')
    data = toy_config('det', write_toy_data(folder / 'data'), folder / 'work', iters=2)
    model = Config.fromfile(CONFIG, import_custom_modules=False).model
    small = dict(
        backbone=dict(base_channels=4, init_cfg=None),
        neck=dict(in_channels=32, num_deconv_filters=(16, 8, 8)),
        bbox_head=dict(in_channels=8, feat_channels=8, num_classes=2),
    )
    for part, changes in small.items():
        model.student[part].update(changes)
    model.teacher.update(checkpoint=None, classes='same', overrides=small)
    data.model, data.custom_imports = model, dict(imports=['mmkd_example'])
    data.default_hooks.distill = dict(type='mmkd.DistillHook', interval=1)
    data.default_hooks.logger.interval = 1
    data.dump(folder / 'toy.py')
    return folder / 'toy.py'


def train(config: Path, site: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(config)]
    if options:
        command += ['--cfg-options', *options]
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(site))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)


def test_the_plugin_trains_and_its_losses_are_logged(config, site):
    done = train(config, site)
    assert done.returncode == 0, done.stderr[-3000:]
    (scalars,) = (config.parent / 'work').glob('*/vis_data/scalars.json')
    steps = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert len(steps) == 2
    for name in ('kd.loss_cls', 'huber.loss', 'backbone.gt_loss_heat', 'backbone.kd_loss_cls'):
        assert all(0 < step[name] < float('inf') for step in steps), name
    assert all(step['huber.grad_share'] > 0 for step in steps)
    student = Config.fromfile(config.parent / 'work/toy.student.py', import_custom_modules=False)
    assert student.model.type == 'CenterNet'
    assert student.custom_imports.allow_failed_imports  # the student needs no plugin


MISTAKES = """
import mmkd_example
from mmkd.registry import build

for cfg in (
    dict(type='mmkd_example.HubberFeatureLoss'),
    dict(type='HubberFeatureLoss'),
    dict(type='mmkd_exampel.HuberFeatureLoss'),
    dict(type='HuberFeatureLoss', delta=0),
    dict(type='HuberFeatureLoss', beta=1),
    dict(type='HeatmapExit', tap='backbone'),
):
    try:
        print('built', build(cfg, "term 'huber'", 'term' if 'tap' in cfg else None))
    except ValueError as error:
        print(error)
"""


def test_a_mistake_with_a_plugin_is_one_line(site):
    environment = dict(os.environ, PYTHONPATH=str(site))
    command = [sys.executable, '-c', MISTAKES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    expected = (
        "unknown type 'mmkd_example.HubberFeatureLoss'",
        "unknown type 'HubberFeatureLoss'; nearest: HuberFeatureLoss",
        "unknown type 'mmkd_exampel.HuberFeatureLoss'.*custom_imports",
        'HuberFeatureLoss: delta=0 must be positive',
        "unknown argument 'beta'; it has delta",
        "'HeatmapExit' is not a type of term; write one of CrossKD, FeatureKD, LogitKD",
    )
    assert len(lines) == len(expected)
    for line, text in zip(lines, expected):
        assert re.match(f"term 'huber': .*{text}", line), line


def test_an_error_that_the_plugin_raises_itself_is_one_line(config, site, tmp_path):
    cfg = toy_config('det', config.parent / 'data', tmp_path / 'work', iters=1)
    student = cfg.model
    exits = dict(early=dict(type='HeatmapExit', tap='backbone', gt=1, kd=0))
    cfg.model = dict(type='mmkd.Distiller', student=student, exits=exits)
    cfg.custom_imports = dict(imports=['mmkd_example'])
    cfg.dump(tmp_path / 'wrong.py')
    done = train(tmp_path / 'wrong.py', site)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "mmkd: error: exit 'early': HeatmapExit needs a CenterNet; use DenseExit"
    )
