"""tools/compare.py: what is never repeated, what is resumed."""

import hashlib
import json
import struct
from pathlib import Path

import cv2
import pandas as pd
import pytest
import torch
from mmengine.config import Config

KILL_ONCE = """
import os
import signal
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class KillOnce(Hook):
    def __init__(self, marker):
        self.marker = Path(marker)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


def _record(config: str, seed: int, score: float, **extra) -> dict:
    record = dict(
        config=config,
        config_hash=config,
        teacher_sha256=None,
        seed=seed,
        split='test',
        metric='mIoU',
        score=score,
        metrics={'mIoU': score, 'aAcc': 2 * score},
        curve=[[10, score - 2], [20, score]],
        commit='abc1234',
        dirty=False,
        minutes=2.0 + seed,
        machine=dict(cpu='a cpu', threads=1, torch='2.13.0'),
        finished='2026-01-01T00:00:00+00:00',
    )
    return record | extra


def _write(out: Path, *records: dict) -> None:
    for record in records:
        path = out / f'{record["config"]}_seed{record["seed"]}.json'
        path.write_text(json.dumps(record))


def test_report_is_rebuilt_from_results(load_tool, tmp_path):
    compare = load_tool('compare')
    _write(tmp_path, *(_record('alone', s, 20.0 + s) for s in (0, 1, 2)))
    _write(tmp_path, *(_record('taught', s, 23.0 + 2 * s) for s in (0, 1)))
    arguments = ['alone.py', 'taught.py', '--report-only', '--out', str(tmp_path)]
    compare.main(compare.parse_args(arguments))

    summary = pd.read_csv(tmp_path / 'summary.csv').set_index('config')
    assert summary.loc['alone', ['n', 'mean', 'minutes']].tolist() == [3, 21.0, 3.0]
    assert summary.loc['taught', ['n', 'pairs', 'diff', 'diff_se']].tolist() == [2, 2, 3.5, 0.5]
    assert len(pd.read_csv(tmp_path / 'runs.csv')) == 5
    text = (tmp_path / 'summary.md').read_text()
    assert '| taught | 2 | 24.00 | 1.00 | +3.50 | 0.50 |' in text
    assert 'abc1234' in text and 'seeds: 0, 1, 2' in text and 'torch 2.13.0' in text
    for name in ('scores.png', 'curves.png'):
        assert (tmp_path / name).stat().st_size > 5000

    compare.main(compare.parse_args([*arguments, '--metric', 'aAcc', '--baseline', 'taught']))
    assert pd.read_csv(tmp_path / 'summary.csv').set_index('config').loc['alone', 'mean'] == 42.0


def test_every_pair_is_compared(load_tool, tmp_path):
    compare = load_tool('compare')
    _write(tmp_path, *(_record('alone', s, 20.0 + s) for s in (0, 1)))
    _write(tmp_path, *(_record('longer', s, 21.0 + 3 * s) for s in (0, 1, 2)))
    _write(tmp_path, _record('taught', 1, 26.0))
    names = ['alone.py', 'longer.py', 'taught.py']
    compare.main(compare.parse_args([*names, '--report-only', '--out', str(tmp_path)]))
    # alone 20, 21; longer 21, 24: differences 1 and 3, standard error 1; not more than two of them
    text = (tmp_path / 'summary.md').read_text()
    assert '| 1 alone | - | -2.00 ± 1.00 | -5.00 ± - |' in text
    assert '| 2 longer | +2.00 ± 1.00 | - | -2.00 ± - |' in text
    _write(tmp_path, *(_record('longer', s, 21.5 + 2 * s) for s in (0, 1)))  # 1.5 and 2.5: 2 ± 0.5
    compare.main(compare.parse_args([*names, '--report-only', '--out', str(tmp_path)]))
    assert '| 2 longer | **+2.00 ± 0.50** | - |' in (tmp_path / 'summary.md').read_text()


def test_results_of_different_configs_are_not_averaged(load_tool, tmp_path):
    _write(tmp_path, _record('a', 0, 1.0), _record('a', 1, 2.0, config_hash='other'))
    with pytest.raises(ValueError, match='differ in their config_hash'):
        load_tool('_compare_records').read_records(tmp_path, [])


def test_hash_knows_the_config_and_not_the_machine_or_the_seed(load_tool, tmp_path, monkeypatch):
    config_hash = load_tool('_provenance').config_hash

    def hashed(**changes) -> str:
        cfg = dict(model=dict(type='A', width=4), data='data/x', randomness=dict(seed=0))
        return config_hash(Config(cfg | changes))

    monkeypatch.chdir(tmp_path)
    assert hashed() == hashed(work_dir='w', randomness=dict(seed=5), data=f'{tmp_path}/data/x')
    assert hashed() != hashed(model=dict(type='A', width=8))
    assert hashed() != hashed(randomness=dict(seed=0, deterministic=True))


def test_teachers_are_known_by_their_weights(load_tool, tmp_path):
    run = load_tool('_provenance')
    weights = dict(b=torch.tensor([1.0, 2.0]), a=torch.tensor(3))

    def saved(name, state_dict, **beside):
        torch.save(dict(state_dict=state_dict, **beside), tmp_path / name)
        return dict(config='c.py', checkpoint=str(tmp_path / name))

    def hashed(teacher):
        return run.teacher_hash(Config(dict(model=dict(teacher=teacher))))

    expected = hashlib.sha256(b'a torch.int64 ()' + struct.pack('<q', 3))
    expected.update(b'b torch.float32 (2,)' + struct.pack('<2f', 1, 2))
    file = saved('a.pth', weights)
    assert hashed(file) == expected.hexdigest()
    assert hashed(saved('b.pth', weights, meta=dict(time='another day'))) == hashed(file)
    assert hashed(saved('c.pth', dict(weights, a=torch.tensor(4)))) != hashed(file)
    published = dict(config='c.py', checkpoint='published')
    assert hashed(published) is None and hashed(None) is None
    assert hashed(dict(big=file, small=published)) == {'big': hashed(file)}


def test_a_detector_that_predicts_nothing_counts_as_0(load_tool):
    run = load_tool('_compare_run')
    both = dict(type='CocoMetric', metric=['bbox', 'segm'])
    assert run.nothing_predicted(both) == {'coco/bbox_mAP': 0.0, 'coco/segm_mAP': 0.0}
    assert run.main_metric(run.nothing_predicted(dict(type='CocoMetric'))) == 'coco/bbox_mAP'
    with pytest.raises(run.RunFailedError, match='gave no metric'):
        run.nothing_predicted(dict(type='IoUMetric'))


def test_runs_go_seed_by_seed_and_stale_results_are_refused(load_tool, write_config, tmp_path):
    compare = load_tool('compare')
    configs = [str(write_config('det', name)) for name in ('one', 'two')]
    out = tmp_path / 'out'
    out.mkdir()
    args = compare.parse_args([*configs, '--seeds', '3', '1', '--out', str(out)])
    runs = compare.list_runs(args)
    assert [r.name for r in runs] == ['one seed 3', 'two seed 3', 'one seed 1', 'two seed 1']

    _write(out, _record('two', 1, 1.0))
    with pytest.raises(ValueError, match=r'two_seed1\.json'):
        compare.settle_stale(runs, rerun=False)
    compare.settle_stale(runs, rerun=True)
    assert not list(out.glob('*.json'))

    same = compare.list_runs(compare.parse_args([configs[0], '--seeds', '8', '--out', str(out)]))[0]
    _write(out, _record('one', 8, 1.0, **same.identity))
    assert same.stale() is None
    # finished by another comparison while it waited: neither trained nor tested again
    assert same() == json.loads(same.result.read_text())
    assert not list(same.run_dir.glob('*.log'))


def test_remaining_time_comes_from_the_same_config(load_tool, write_config, tmp_path):
    compare, plan = load_tool('compare'), load_tool('_compare_plan')
    configs = [str(write_config('det', name)) for name in ('fast', 'slow', 'new')]
    arguments = [*configs, '--seeds', '0', '--schedules', '1', '4', '--out', str(tmp_path)]
    runs = compare.list_runs(compare.parse_args(arguments))
    known = [_record('fast', 0, 1.0, minutes=1.0), _record('fast', 1, 1.0, minutes=3.0)]
    known += [_record('slow', 0, 1.0, minutes=20.0, schedule=2)]
    # a schedule's worth: fast 2, slow 10, new their mean 14 / 3; each at 1 and at 4 schedules
    assert plan.Plan(runs, 1, known).remaining() == pytest.approx(5 * (2 + 10 + 14 / 3))
    assert plan.Plan(runs[:1], 4, known).remaining() == 2.0
    assert plan.Plan([], 2, known).remaining() == 0.0
    assert plan.Plan(runs, 2).remaining() is None
    assert 'once the first run has finished' in plan.Plan(runs, 2).outlook()

    first = plan.Plan(runs, 1, known)
    first.finish(runs[0], known[0])
    first.fail(runs[1])
    first.write(tmp_path)
    table = pd.read_csv(tmp_path / 'plan.csv')
    assert table.state.tolist() == ['finished', 'failed', *['waiting'] * 4]
    assert table.schedule.tolist() == [1, 1, 1, 4, 4, 4]
    assert table.expected_minutes[4] == pytest.approx(40)


def test_the_axes_are_crossed_and_named(load_tool, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    compare = load_tool('compare')
    folder = 'configs/segmentation/ccp8'
    arguments = [
        f'{folder}/fcn_mobilenetv2-0.25_ccp8.py',
        f'{folder}/kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py',
        *('--seeds', '5', '--fractions', '0.1', '1', '--schedules', '1', '2'),
        *('--grad-share', 'published', '0.1', '--out', str(tmp_path)),
    ]
    runs = compare.list_runs(compare.parse_args(arguments))
    # the student alone has nothing to weigh: 3 arms on 4 cells
    assert len(runs) == 12 and len({run.result for run in runs}) == 12
    kd = 'kd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8'
    assert [run.result.name for run in runs[:3]] == [
        'fcn_mobilenetv2-0.25_ccp8_data0.1_seed5.json',
        f'{kd}_data0.1_seed5.json',
        f'{kd}_share0.1_data0.1_seed5.json',
    ]
    last = runs[-1]
    assert last.result.name == f'{kd}_share0.1_schedule2_seed5.json'
    assert last.run_dir == tmp_path / f'runs/{kd}_share0.1_schedule2/seed5'
    assert last.cfg.train_cfg.max_iters == 2 * runs[0].cfg.train_cfg.max_iters
    hashes = [run.identity['config_hash'] for run in runs]
    assert hashes[0] == hashes[3] and hashes[0] != hashes[6]  # its data are not in a config

    for wrong, message in (
        (('--fractions', '1.5'), '--fractions must lie above 0 and at most at 1, got 1.5'),
        (('--schedules', '0'), '--schedules must lie above 0, got 0.0'),
        (('--slurm', 'gpu'), "--slurm 'gpu' is no KEY=VALUE"),
    ):
        with pytest.raises(ValueError, match=message):
            compare.main(compare.parse_args([*arguments, *wrong]))


def test_killed_run_is_named_and_resumed_and_finished_run_is_not_repeated(
    load_tool, write_config, tmp_path, capfd, monkeypatch
):
    (tmp_path / 'kill_once.py').write_text(KILL_ONCE)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    extra = f"""
custom_imports = dict(imports=['kill_once'])
custom_hooks = [dict(type='KillOnce', marker='{tmp_path}/killed')]
"""
    config, out = write_config('det', extra=extra), tmp_path / 'out'
    compare = load_tool('compare')
    args = compare.parse_args([str(config), '--seeds', '4', '--out', str(out), '--pictures', '1'])
    with pytest.raises(SystemExit) as stopped:
        compare.main(args)
    printed = capfd.readouterr()
    assert '1 runs, 0 of them finished before; the end is estimated' in printed.out
    assert stopped.value.code == 1 and 'failed: toy seed 4' in printed.err
    assert 'exit code -9' in printed.out
    assert not (out / 'toy_seed4.json').exists()

    compare.main(args)
    assert pd.read_csv(out / 'plan.csv').state.tolist() == ['finished']
    log = (out / 'runs/toy/seed4/train.log').read_text()
    assert log.count('resumed epoch: 0, iter: 2') == 1
    record = json.loads((out / 'toy_seed4.json').read_text())
    assert [step for step, _ in record['curve']] == [2, 4]
    assert record['iterations'] == 4 and 0 < record['step_seconds'] < 60
    assert (record['fraction'], record['schedule'], record['grad_share']) == (1, 1, None)
    assert record['seed'] == 4 and record['metric'] == 'coco/bbox_mAP' and record['minutes'] > 0
    assert record['score'] == 100 * record['metrics']['coco/bbox_mAP']
    assert str(tmp_path) not in json.dumps(record)
    picture = out / 'pictures/toy_0.png'
    assert cv2.imread(str(picture)).shape[0] > 100
    drawn = picture.stat().st_mtime_ns

    monkeypatch.setattr(load_tool('_compare_run').Run, '__call__', None)
    compare.main(args)
    assert '1 runs, 1 of them finished before' in capfd.readouterr().out
    assert picture.stat().st_mtime_ns == drawn

    config.write_text(config.read_text().replace('lr=0.01', 'lr=0.02'))
    with pytest.raises(ValueError, match=r'toy_seed4\.json.*--rerun'):
        compare.main(args)


def test_grad_share_replaces_every_weight(load_tool, tmp_path, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    folder = 'configs/segmentation/ccp8'
    configs = [
        f'{folder}/fcn_mobilenetv2-0.25_ccp8.py',
        f'{folder}/kd-ds-pkd_fcn_mobilenetv2-1.0_mobilenetv2-0.25_ccp8.py',
    ]
    compare = load_tool('compare')
    arguments = [*configs, '--seeds', '0', '--out', str(tmp_path), '--grad-share', '0.2']
    alone, taught = compare.list_runs(compare.parse_args(arguments))
    stock, plain = compare.list_runs(compare.parse_args(arguments[:-2]))
    assert alone.identity == stock.identity
    assert taught.identity['config_hash'] != plain.identity['config_hash']
    before, model = plain.cfg.model, taught.cfg.model
    assert set(model.terms) == {'kd', 'pkd'} and set(model.exits) == {'backbone'}
    assert model.terms.pkd.weight == dict(
        type='GradientShare', share=0.2, start=before.terms.pkd.weight
    )
    assert model.terms.kd.weight == dict(type='GradientShare', share=0.2, start=1.0)
    assert model.exits.backbone.weight.type == 'GradientShare'
    (moved,) = compare.list_runs(
        compare.parse_args(
            [*arguments[1:], '--cfg-options', 'model.terms.pkd.weight=5.0', 'train_cfg.max_iters=9']
        )
    )
    assert moved.cfg.model.terms.pkd.weight.start == 5.0 and moved.cfg.train_cfg.max_iters == 9
    with pytest.raises(ValueError, match=r'--grad-share must lie between 0 and 1, got 2\.0'):
        compare.main(compare.parse_args([*arguments[:-1], '2']))
