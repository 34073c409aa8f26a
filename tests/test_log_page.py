"""docs/reading_the_log.md: the line it explains is what its config logs, and its sums hold."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from toys import det_batch, distil, random_teacher, seg_batch, segmentor

from mmkd.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs/reading_the_log.md').read_text()
(LINE,) = [b for b in re.findall(r'```\n(.*?)```', PAGE, re.S) if b.startswith('Iter(train)')]
FIELDS = {k: float(v) for k, v in re.findall(r'([\w.]+): ([\d.e+-]+)(?:\s|$)', LINE)}


def test_the_loss_is_the_sum_of_its_entries():
    losses = [v for k, v in FIELDS.items() if 'loss' in k and k != 'loss']
    assert len(losses) == 14
    assert sum(losses) == pytest.approx(FIELDS['loss'], abs=1e-3)


def test_what_is_said_of_its_numbers():
    assert round(FIELDS['backbone.feat_loss'] / FIELDS['loss_cls']) == 8
    assert round(100 * FIELDS['backbone.grad_share']) == 17
    squares = {
        name: FIELDS[f'{name}.grad_share'] ** 2 + FIELDS[f'{name}.grad_rest'] ** 2
        for name in ('neck', 'backbone')
    }
    assert squares['neck'] == pytest.approx(0.32 + 0.42, abs=0.01)
    assert squares['backbone'] == pytest.approx(1, abs=0.06)


def test_the_config_logs_these_entries(monkeypatch):
    monkeypatch.chdir(ROOT)
    (name,) = re.findall(r'of `(configs/\S+\.py)`', PAGE)
    cfg = Config.fromfile(name)
    cfg.model.teacher.checkpoint = None
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).train()
    model.init_weights()
    distillation = model.distillation
    distillation.start(('RBC', 'WBC', 'Platelets'))
    distillation.iteration = 49
    assert [part.schedule(49) for part in distillation.parts] == [1.0, 0.5, 0.5]
    distillation.shares.start(True)
    losses = model.loss(*det_batch(model))
    logged = {k for k in FIELDS if 'loss' in k and k != 'loss'}
    assert set(losses) == logged
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    total, _ = model.parse_losses(losses)
    total.backward()
    shares = {f'{k}.grad_{what}' for k in distillation.shares.read() for what in ('share', 'rest')}
    assert shares == {k for k in FIELDS if '.grad_' in k}

    # clipping counts adapters and exits too
    for p in distillation.parameters():
        p.grad.mul_(1000)
    own = [p.grad for n, p in model.named_parameters() if not n.startswith('distillation.')]
    whole = norm([p.grad for p in model.parameters()])
    assert norm(own) < whole * 0.9
    wrapper.step()
    grad_norm = MessageHub.get_current_instance().get_scalar('train/grad_norm').current()
    assert grad_norm == pytest.approx(whole, rel=1e-4)


def norm(gradients) -> float:
    squares = [g.square().sum() for g in gradients if g is not None]
    return float(torch.stack(squares).sum().sqrt())


def test_a_term_that_has_not_begun_logs_a_zero():
    model = distil(
        segmentor(), teacher=random_teacher(segmentor()),
        terms=dict(kd=dict(type='LogitKD', schedule=dict(begin=300))),
    )  # fmt: skip
    losses = model.loss(*seg_batch(model))
    assert {k: float(v) for k, v in losses.items() if k.startswith('kd.')} == {'kd.loss': 0.0}


def test_quoted_results_are_on_the_results_page():
    results = (ROOT / 'docs/results.md').read_text()
    for figure in ('30.0', '37.3', '30.1', '42.2', '41.6', '41.4', '1.8 x'):
        assert figure in PAGE and figure in results, figure
