"""A multiple of a schedule: what grows, what stays, what is counted from the end."""

import pytest
from mmengine.config import Config


@pytest.fixture
def stretched(load_tool):
    """A function that stretches a config given as keywords, and returns it."""

    def stretch(multiple: float, **content) -> Config:
        cfg = Config(dict(model={}) | content)
        load_tool('_stretch').stretch(cfg, multiple)
        return cfg

    return stretch


def test_iterations(stretched):
    cfg = stretched(
        2,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=1000, val_interval=250),
        param_scheduler=[
            dict(type='LinearLR', by_epoch=False, begin=0, end=50, start_factor=0.1),
            dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=1000, T_max=950),
        ],
        model=dict(
            terms=dict(kd=dict(schedule=dict(begin=10, warmup=100, end=900, fade=40)), off=None),
            exits=dict(neck=dict(schedule=None)),
        ),
    )
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (2000, 500)
    warm, cosine = cfg.param_scheduler
    assert warm == dict(type='LinearLR', by_epoch=False, begin=0, end=50, start_factor=0.1)
    assert (cosine.begin, cosine.end, cosine.T_max) == (50, 2000, 1950)
    assert cfg.model.terms.kd.schedule == dict(begin=20, warmup=100, end=1800, fade=80)


def test_epochs_with_a_phase_at_the_end(stretched):
    # RTMDet's: 300 epochs, the last 20 without mosaic and validated each
    cfg = stretched(
        0.5,
        train_cfg=dict(
            by_epoch=True, max_epochs=300, val_interval=10, dynamic_intervals=[(280, 1)]
        ),
        param_scheduler=[
            dict(type='LinearLR', by_epoch=False, begin=0, end=1000),
            dict(type='CosineAnnealingLR', by_epoch=True, begin=150, end=300, T_max=150),
        ],
        custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=280)],
    )
    assert cfg.train_cfg.max_epochs == 150 and cfg.train_cfg.val_interval == 5
    assert cfg.train_cfg.dynamic_intervals == [(130, 1)]
    assert cfg.custom_hooks[0].switch_epoch == 130
    warm, cosine = cfg.param_scheduler
    assert warm.end == 1000 and (cosine.begin, cosine.end, cosine.T_max) == (75, 150, 75)


def test_milestones_and_a_linear_decay(stretched):
    cfg = stretched(
        3,
        train_cfg=dict(by_epoch=True, max_epochs=12),
        param_scheduler=[
            dict(type='LinearLR', by_epoch=False, begin=0, end=500),
            dict(type='MultiStepLR', begin=0, end=12, milestones=[8, 11]),
            dict(type='LinearLR', begin=0, end=12),  # as long as the run: a decay
        ],
    )
    warm, steps, decay = cfg.param_scheduler
    assert warm.end == 500 and decay.end == 36
    assert (steps.begin, steps.end, steps.milestones) == (0, 36, [24, 33])
    assert cfg.train_cfg.max_epochs == 36 and 'val_interval' not in cfg.train_cfg


def test_once_is_unchanged_and_nonsense_is_refused(stretched):
    content = dict(
        train_cfg=dict(max_iters=7), param_scheduler=dict(type='ExponentialLR', gamma=0.9)
    )
    assert stretched(1, **content).to_dict() == Config(dict(model={}) | content).to_dict()
    with pytest.raises(ValueError, match='ExponentialLR of param_scheduler'):
        stretched(2, **content)
    with pytest.raises(ValueError, match='above 0, got -1'):
        stretched(-1, **content)
