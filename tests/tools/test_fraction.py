"""A share of a training set: stratified, nested, fixed by the seed, from boxes or label maps."""

import json

import pytest
from mmengine.config import Config


def test_each_beginning_is_stratified_and_nested(load_tool):
    order = load_tool('_fraction').stratified_order
    # class 0 in all 120 images, class 1 in 30 of them, class 2 in 6 of those; 20 more show nothing
    present = [
        {0} | ({1} if i % 4 == 0 else set()) | ({2} if i % 20 == 0 else set()) for i in range(120)
    ]
    present += [set()] * 20
    strata = [
        max(classes, default=-1) for classes in present
    ]  # here the rarest class is the highest
    sizes = {stratum: strata.count(stratum) for stratum in set(strata)}
    assert sizes == {-1: 20, 0: 90, 1: 24, 2: 6}
    found = order(present, seed=3).tolist()
    assert sorted(found) == list(range(140))
    for n in (7, 14, 35, 70, 139):
        for stratum, size in sizes.items():
            taken = sum(strata[i] == stratum for i in found[:n])
            assert abs(taken - n * size / 140) <= 2, (n, stratum)
    assert order(present, seed=3).tolist() == found
    assert order(present, seed=4).tolist() != found


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_the_config_keeps_a_share(load_tool, write_config, kind):
    tool = load_tool('_fraction')
    cfg = Config.fromfile(write_config(kind))
    with pytest.raises(ValueError, match=r'randomness\.seed=0'):
        tool.take_fraction(Config(dict(cfg.to_dict(), randomness={})), 0.5)
    kept = {}
    for fraction in (0.25, 0.5, 1.0):
        each = Config.fromfile(write_config(kind))
        assert tool.take_fraction(each, fraction) == 4 * fraction
        kept[fraction] = set(each.train_dataloader.dataset.indices)
        assert each.val_dataloader.dataset.get('indices') is None
    assert kept[0.25] < kept[0.5] < kept[1.0] == {0, 1, 2, 3}
    if kind == 'det':  # two images a class: half of them is one of each
        assert {i % 2 for i in kept[0.5]} == {0, 1}

    # a share of a share, inside a wrapper
    cfg.train_dataloader.dataset.indices = [3, 1]
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=inner)
    assert tool.take_fraction(cfg, 0.5) == 1
    assert cfg.train_dataloader.dataset.dataset.indices in ([3], [1])
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner, inner])
    with pytest.raises(ValueError, match='ConcatDataset joins several'):
        tool.take_fraction(cfg, 0.5)
    with pytest.raises(ValueError, match='at most at 1, got 2'):
        tool.take_fraction(cfg, 2)


def test_a_run_on_half_of_the_data(run_tool, write_config, tmp_path):
    config = write_config('seg')
    done = run_tool(
        'train.py', config, '--work-dir', tmp_path, '--fraction', '0.5', '--schedule', '2'
    )
    assert 'Training on 2 images, 0.5 of all.' in done.stdout
    (dumped,) = tmp_path.glob('*/vis_data/config.py')
    cfg = Config.fromfile(dumped)
    assert len(cfg.train_dataloader.dataset.indices) == 2
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    steps = [e['step'] for e in map(json.loads, log.read_text().splitlines()) if 'loss' in e]
    assert steps == list(range(1, 9))  # 4 iterations, twice
