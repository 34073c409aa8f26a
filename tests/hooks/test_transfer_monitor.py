"""Cosines are what a second backward pass would have told, and measuring them changes nothing."""

import json
from pathlib import Path

import pytest
import torch
from toys import (
    det_batch,
    detector,
    distil,
    norms_in_eval,
    random_teacher,
    seg_batch,
    segmentor,
    total,
)

from mmkd.distillers.shares import GradientShares
from mmkd.hooks import TransferMonitor
from mmkd.terms.tap import Capture, Tap
from mmkd.testing import (
    differences,
    run_state,
    toy_config,
    toy_distiller,
    toy_model,
    train,
    write_toy_data,
)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp('data'))


def cosine_of(own, rest, directions=True):
    """Of two terms: the first's gradient is ``own``, the second's ``rest``."""
    shares = GradientShares()
    shares.start(True, directions=directions)
    x = torch.ones(2, requires_grad=True) * 1.0
    loss = (shares.alias('a', x) * torch.tensor(own)).sum() + (x * torch.tensor(rest)).sum()
    loss.backward()
    shares.read()
    return shares.cosines


def test_known_cosines():
    assert cosine_of([3.0, 0.0], [1.0, 1.0])['a'] == pytest.approx(0.5**0.5)
    assert cosine_of([3.0, 4.0], [-3.0, -4.5])['a'] == pytest.approx(
        -27 / (5 * (9 + 4.5**2) ** 0.5)
    )
    assert cosine_of([1.0, 0.0], [0.0, 5.0])['a'] == 0.0


def test_no_direction_without_asking_or_without_a_rest():
    assert cosine_of([3.0, 0.0], [1.0, 1.0], directions=False) == {}
    assert cosine_of([3.0, 0.0], [0.0, 0.0]) == {}


def by_autograd(model, batch, addresses, owner):
    taps = [Tap.parse(a) for a in addresses]
    with Capture(model, taps, 'student') as capture:
        losses = model.loss(*batch)
    tensors = [x for tap in taps for x in capture.read(tap)]
    own = sum(v for n, v in losses.items() if n.startswith(f'{owner}.'))
    own = torch.autograd.grad(own, tensors, retain_graph=True)
    whole = torch.autograd.grad(total(losses), tensors)
    own = torch.cat([x.flatten() for x in own])
    rest = torch.cat([x.flatten() for x in whole]) - own
    return torch.cosine_similarity(own, rest, dim=0).item()


def check(model, batch, owners):
    expected = {o: by_autograd(model, batch, taps, o) for o, taps in owners.items()}
    shares = model.distillation.shares
    for scale, passes in ((1.0, 1), (512.0, 1), (0.5, 2)):
        shares.start(True, directions=True)
        for _ in range(passes):
            (total(model.loss(*batch)) * scale).backward()
        shares.read()
        for owner, cosine in expected.items():
            assert shares.cosines[owner] == pytest.approx(cosine, abs=2e-4), (owner, scale)
    assert any(abs(cosine) > 0.01 for cosine in expected.values())


def test_cosines_of_a_segmentor():
    model = distil(
        segmentor(), teacher=random_teacher(segmentor(width=16)),
        terms=dict(f=dict(type='FeatureKD', tap='backbone[1]', weight=2.0)),
        exits=dict(e=dict(type='SegExit', tap='backbone[2]', dropout=0.0)),
    )  # fmt: skip
    check(norms_in_eval(model), seg_batch(model), dict(f=['backbone[1]'], e=['backbone[2]']))


def test_cosines_of_a_detector():
    model = distil(
        detector(), teacher=random_teacher(detector(width=16)),
        terms=dict(kd=dict(type='LogitKD', weight=5.0)),
        exits=dict(e=dict(type='DenseExit', tap='neck')),
    )  # fmt: skip
    check(model, det_batch(model), dict(kd=['bbox_head[0]', 'bbox_head[1]'], e=['neck']))


def run(kind, root, folder, interval, off=False):
    hooks = [dict(type='mmkd.TransferMonitor', interval=interval)] if interval else []
    backends = [dict(type='LocalVisBackend')]
    cfg = toy_config(
        kind, root, folder, toy_distiller(kind, off=off), iters=4, custom_hooks=hooks,
        visualizer=dict(type='Visualizer', vis_backends=backends),
    )  # fmt: skip
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.distill.interval = 1000
    return train(cfg)


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_watching_changes_no_loss_and_no_weight(kind, root, tmp_path):
    plain, watched = (run(kind, root, tmp_path / str(n), n) for n in (0, 2))
    for a, b in zip(plain[1], watched[1], strict=True):
        assert differences(a, b) == []
    assert differences(run_state(plain[0]), run_state(watched[0])) == []


def test_what_is_logged_and_when(root, tmp_path):
    run('seg', root, tmp_path, 2)
    (file,) = Path(tmp_path).rglob('scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    names = {f'{part}.{what}' for part in ('kd', 'feature', 'stages')
             for what in ('grad_cosine', 'grad_share', 'grad_rest')}  # fmt: skip
    assert len(lines) == 4 and not names & set(lines[0])
    assert names <= set(lines[1])  # in the line of the step itself
    assert all('loss' not in name for name in names)
    assert all(-1 <= lines[i][name] <= 1 for i in (1, 3) for name in names if 'cosine' in name)
    for name in ('kd', 'feature', 'stages'):
        share, rest, cosine = (lines[3][f'{name}.grad_{x}'] for x in ('share', 'rest', 'cosine'))
        assert share**2 + rest**2 + 2 * share * rest * cosine == pytest.approx(1.0, abs=1e-4)
        assert lines[3][f'{name}.grad_cosine'] != lines[2][f'{name}.grad_cosine']


def test_nothing_is_logged_where_all_weights_are_0(root, tmp_path):
    run('det', root, tmp_path, 1, off=True)
    (file,) = Path(tmp_path).rglob('scalars.json')
    assert 'grad_cosine' not in file.read_text() and 'grad_norm' in file.read_text()


def test_mistakes_are_one_line(root, tmp_path):
    for interval in (0, -1, 2.5, True, None):
        with pytest.raises(ValueError, match=r'interval=.* must be a number of iterations >= 1'):
            TransferMonitor(interval)
    hooks = [dict(type='mmkd.TransferMonitor')]
    cfg = toy_config('seg', root, tmp_path, toy_model('seg'), iters=2, custom_hooks=hooks)
    with pytest.raises(ValueError, match='TransferMonitor: the model is not a distillation'):
        train(cfg)
