"""Every shipped config is built: stock ones as they are, distillations with random teachers."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmkd  # noqa: F401  makes `mmseg::` and `mmkd::` known to config files
from mmkd.registry import MODELS, build_in_scope

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.relative_to(ROOT).parts
)


def test_there_are_configs_to_build():
    assert len(CONFIGS) >= 18
    assert {path.parts[1] for path in CONFIGS} >= {'demo', 'detection', 'segmentation'}


@pytest.mark.parametrize('path', CONFIGS, ids=str)
def test_config_builds(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = Config.fromfile(path)
    scope = cfg.default_scope
    init_default_scope(scope)
    if 'student' not in cfg.model:
        model = build_in_scope(dict(cfg.model, _scope_=scope), str(path))
        assert sum(p.numel() for p in model.parameters()) > 10_000
        return
    assert cfg.default_hooks.distill.type == 'mmkd.DistillHook'
    if cfg.model.get('teacher'):
        assert cfg.model.teacher.checkpoint.endswith('.pth')
        cfg.model.teacher.checkpoint = None
    model = MODELS.build(cfg.model)
    named = [
        *(n for n, c in (cfg.model.get('terms') or {}).items() if isinstance(c, dict)),
        *(n for n, c in (cfg.model.get('exits') or {}).items() if isinstance(c, dict)),
    ]
    assert [part.name for part in model.distillation.parts] == named
    assert all(part.shapes and not part.is_off for part in model.distillation.parts)
