"""Every shipped config is read; small ones are built; each distillation takes a training step.

The steps use random weights and small images: of the published pairs, one per family by default,
all of them under ``-m slow``.
"""

import functools
import json
import re
import runpy
import tempfile
from collections import defaultdict
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from toys import det_batch, seg_batch

from mmkd.distillers.model_source import resolve_model
from mmkd.families.family import Family
from mmkd.registry import MODELS, build_in_scope

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.relative_to(ROOT).parts
)
DATA_SETS = (
    'demo', 'my_data', 'bccd', 'coco', 'ccp8', 'cityscapes', 'ade20k', 'voc12aug', 'digits',
)  # fmt: skip
# what lies in the folder of its data set; all else that has a teacher lies in its method's
KINDS = ('kd', 'kd-ds', 'kd-ds-pkd', 'kd-cross', 'kd-sem', 'ds-gt')
WITH_EXITS = ('kd-ds', 'kd-ds-pkd', 'kd-cross', 'kd-sem', 'ds-gt', 'ofa', 'dskd', 'byot', 'golsd')
METHODS = sorted({path.parent for path in CONFIGS if path.parent.name not in DATA_SETS})
DISTILLATIONS = [
    path for path in CONFIGS if path.parent in METHODS or path.name.split('_')[0] in KINDS
]
SMALL = [path for path in CONFIGS if re.search('_(digits|bccd|ccp8)', path.name)]
ONE_PER_FAMILY = [
    'configs/detection/coco/kd-ds_retinanet_r101_r18_fpn_1x_coco.py',
    'configs/detection/rtmdet_kd/fkd_rtmdet_s_tiny_8xb32-300e_coco.py',
    'configs/segmentation/cityscapes/kd-ds_pspnet_r101-d8_r18-d8_4xb2-80k_cityscapes-512x1024.py',
]
SIDE = 128  # pixels
ROW = runpy.run_path(str(ROOT / 'tools/model_index.py'))['config_row']
ROWS = [
    line for line in (ROOT / 'docs/configs.md').read_text().splitlines() if line.startswith('| [')
]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    """Configs name teachers of this repository by their path from its root."""
    monkeypatch.chdir(ROOT)


published = functools.cache(lambda config: resolve_model(config).published)


def test_there_are_configs():
    assert len(CONFIGS) >= 180
    assert len(DISTILLATIONS) >= 155
    assert len(METHODS) >= 31
    assert len(ROWS) == len(CONFIGS), 'run python tools/model_index.py'
    assert set(map(Path, ONE_PER_FAMILY)) <= set(DISTILLATIONS)
    assert {path.parent.name for path in CONFIGS} >= set(DATA_SETS)


@pytest.mark.parametrize('folder', METHODS, ids=str)
def test_the_page_of_a_method_lists_its_configs(folder):
    page = (folder / 'README.md').read_text()
    linked = set(re.findall(r'\]\(([^/)]+\.py)\)', page))
    assert linked == {path.name for path in CONFIGS if path.parent == folder}
    commands = re.findall(r'python tools/train\.py (\S+)', page)
    assert commands and {Path(name).parent for name in commands} == {folder}
    assert set(map(Path, commands)) <= set(DISTILLATIONS)


@pytest.mark.parametrize('path', CONFIGS, ids=str)
def test_config_is_what_its_name_says(path):
    cfg = Config.fromfile(path)
    assert ROW(path, cfg) in ROWS, 'run python tools/model_index.py'
    assert ('student' in cfg.model) == (path in DISTILLATIONS)
    if path not in DISTILLATIONS:
        return
    assert len(path.read_text().splitlines()) <= 40
    assert cfg.model.type == 'mmkd.Distiller'
    assert cfg.default_hooks.distill.type == 'mmkd.DistillHook'
    kind = path.name.split('_')[0]
    exits = [part for part in (cfg.model.get('exits') or {}).values() if part]
    assert bool(exits) == (kind in WITH_EXITS or 'demo' in path.parts)
    if kind == 'ds-gt':
        assert cfg.model.teacher is None and cfg.model.terms is None
        assert all((part.gt, part.kd, part.feat) == (1, 0, 0) for part in exits)
        return
    assert kind == 'golsd' or cfg.model.terms  # that one has exits alone
    teacher = cfg.model.teacher
    if isinstance(teacher, str):
        assert teacher in ('self', 'ema')
    elif 'checkpoint' not in teacher:
        assert teacher.config.type == 'mmkd.FoundationBackbone'
    elif teacher.checkpoint == 'published':
        assert published(teacher.config).startswith('https://')
    else:
        assert teacher.checkpoint.endswith('.pth')


@pytest.mark.parametrize('path', SMALL, ids=str)
def test_small_config_builds(path):
    cfg = Config.fromfile(path)
    scope = cfg.default_scope
    init_default_scope(scope)
    if path not in DISTILLATIONS:
        model = build_in_scope(dict(cfg.model, _scope_=scope), str(path))
        assert sum(p.numel() for p in model.parameters()) > 10_000
        return
    untrain(cfg.model.get('teacher'))
    model = MODELS.build(cfg.model)
    named = [
        *(n for n, c in (cfg.model.get('terms') or {}).items() if isinstance(c, dict)),
        *(n for n, c in (cfg.model.get('exits') or {}).items() if isinstance(c, dict)),
    ]
    assert [part.name for part in model.distillation.parts] == named
    assert all(part.shapes and not part.is_off for part in model.distillation.parts)


@functools.cache
def small_dino() -> tempfile.TemporaryDirectory:
    """A folder like one of the hub's: a DINOv2 of 2 layers of 8 channels with random weights."""
    transformers = pytest.importorskip('transformers', reason='mmkd[foundation] is absent')
    folder = tempfile.TemporaryDirectory()
    cfg = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    model = transformers.Dinov2Backbone(transformers.Dinov2Config(**cfg))
    model.save_pretrained(folder.name)
    pixels = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    (Path(folder.name) / 'preprocessor_config.json').write_text(json.dumps(pixels))
    return folder


def untrain(teacher: dict | str | None) -> None:
    """Random weights instead of a file; of a foundation model, which is one, a small stand-in."""
    if isinstance(teacher, dict) and 'checkpoint' in teacher:
        teacher.checkpoint = None
    elif isinstance(teacher, dict):
        teacher.config.name_or_path = small_dino().name


def random_weights(cfg: Config) -> Config:
    """The config with nothing to download, and batches of small images."""
    untrain(cfg.model.get('teacher'))
    student = cfg.model.student
    student.backbone.init_cfg = None
    if 'pretrained' in student:
        student.pretrained = None
    if student.data_preprocessor.get('size'):
        student.data_preprocessor.size = (SIDE, SIDE)
    return cfg


def norm(tensors) -> float:
    squares = [x.double().square().sum() for x in tensors if x is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def take_a_step(path) -> None:
    cfg = random_weights(Config.fromfile(path))
    init_default_scope(cfg.default_scope)
    classes = resolve_model(cfg).classes
    side = SIDE if cfg.default_scope == 'mmseg' else Family.dry_run_side
    torch.manual_seed(0)
    with mock.patch.object(Family, 'dry_run_side', side):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    distillation = model.train().distillation
    distillation.start(classes)
    distillation.iteration = 1000  # past every warm-up
    stock_alias, tapped = distillation.shares.alias, defaultdict(list)

    def alias(owner, x):
        tapped[owner].append(x)
        return stock_alias(owner, x)

    distillation.shares.alias = alias
    # DINO picks as many cells as it has queries
    pixels = SIDE if cfg.model.student.get('num_queries', 0) <= 300 else 2 * SIDE
    shapes = ((pixels, pixels), (pixels, pixels))
    for counter in ('iter', 'epoch'):  # YOLOX's preprocessor and TOOD's head ask for them
        MessageHub.get_current_instance().update_info(counter, 0)
    if cfg.default_scope == 'mmdet':
        inputs, samples = det_batch(model, shapes=shapes)
    else:
        inputs, samples = seg_batch(model, shapes=shapes, classes=3)
    losses = model.loss(inputs, samples)
    student = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith('distillation.')
    }
    assert len(distillation.parts) > 0
    for part in distillation.parts:
        own = {name: x for name, x in losses.items() if name.startswith(f'{part.name}.')}
        assert own
        for name, value in own.items():
            assert torch.isfinite(value) and value > 0, (name, value)
            at_tap = torch.autograd.grad(
                value, tapped[part.name], retain_graph=True, allow_unused=True
            )
            assert 0 < norm(at_tap) < float('inf'), name
        reached = torch.autograd.grad(
            sum(own.values()), list(student.values()), retain_graph=True, allow_unused=True
        )
        assert 0 < norm(reached) < float('inf'), part.name
    before = {name: p.detach().clone() for name, p in student.items()}
    build_optim_wrapper(model, cfg.optim_wrapper).update_params(model.parse_losses(losses)[0])
    assert all(torch.isfinite(p).all() for p in model.parameters())
    still = [name for name, p in student.items() if torch.equal(p, before[name])]
    assert len(still) < len(student) / 2, still


@pytest.mark.parametrize('path', ONE_PER_FAMILY, ids=lambda path: Path(path).stem)
def test_one_published_pair_per_family_takes_a_step(path):
    take_a_step(path)


def test_exits_of_segformer_learn_as_fast_as_its_head():
    name = 'ds-gt_segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
    cfg = random_weights(Config.fromfile(f'configs/segmentation/ade20k/{name}'))
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    names = {id(p): name.split('.')[0] for name, p in model.named_parameters()}
    rates = defaultdict(set)
    for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups:
        for p in group['params']:
            # mmengine adds one parameter of its own, which keeps the base rate
            rates[names.get(id(p))].add(round(group['lr'] / 6e-5, 6))
    assert rates.pop(None, {1}) == {1}
    assert rates == dict(backbone={1}, decode_head={10}, distillation={10})


@pytest.mark.slow
@pytest.mark.parametrize('path', DISTILLATIONS, ids=str)
def test_every_distillation_takes_a_step(path):
    take_a_step(path)
