"""tools/train.py and tools/test.py on toy data."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkd.hooks.distill import student_config

DISTILLER = """
model = dict(type='mmkd.Distiller', student=model, teacher=dict(config='x.py', checkpoint='x.pth'))
default_hooks.update(distill=dict(type='mmkd.DistillHook'))
"""


def _metrics(folder: Path) -> dict:
    return json.loads(next(folder.glob('2*/2*.json')).read_text())


def test_command_lines_are_those_of_mmdet(load_tool):
    options = [
        '--work-dir',
        'w',
        '--cfg-options',
        'a.b=2',
        'c=[1,2]',
        '--launcher',
        'slurm',
        '--local-rank',
        '3',
    ]
    train = load_tool('train').parse_args(['c.py', '--amp', '--auto-scale-lr', *options])
    assert (train.config, train.work_dir, train.launcher) == ('c.py', 'w', 'slurm')
    assert train.local_rank == 3
    assert train.amp and train.auto_scale_lr and train.resume is None
    assert train.cfg_options == {'a.b': 2, 'c': [1, 2]}
    assert load_tool('train').parse_args(['c.py', '--resume']).resume == 'auto'
    assert load_tool('train').parse_args(['c.py', '--resume', 'f.pth']).resume == 'f.pth'

    shown = ['--out', 'o.pkl', '--show', '--show-dir', 'd', '--wait-time', '1', '--tta']
    test = load_tool('test').parse_args(['c.py', 'f.pth', *shown, *options])
    assert (test.checkpoint, test.out, test.show_dir) == ('f.pth', 'o.pkl', 'd')
    assert test.show and test.tta and not test.teacher
    assert load_tool('test').parse_args(['c.py', '--teacher']).checkpoint is None


def test_detector_trains_as_a_process_and_is_tested_with_flips(
    write_config, tmp_path, run_tool, load_tool
):
    config, work_dir = write_config('det'), tmp_path / 'run'
    run_tool('train.py', config, '--work-dir', work_dir, '--cfg-options', 'train_cfg.max_iters=2')
    test, out = load_tool('test'), tmp_path / 'predictions.pkl'
    checkpoint = str(work_dir / 'iter_2.pth')
    options = ['--work-dir', str(tmp_path / 'test'), '--show-dir', str(tmp_path / 'shown')]
    plain = test.main(test.parse_args([str(config), checkpoint, *options, '--out', str(out)]))

    assert 'coco/bbox_mAP' in plain
    assert _metrics(tmp_path / 'test')['coco/bbox_mAP'] == plain['coco/bbox_mAP']
    assert len(pickle.loads(out.read_bytes())) == 4
    assert list((tmp_path / 'shown').rglob('*.png'))
    flips = test.parse_args([str(config), checkpoint, '--tta', *options[:2]])
    assert 'coco/bbox_mAP' in test.main(flips)


def test_segmentor_trains_and_a_distillation_config_tests_its_student(
    write_config, tmp_path, load_tool
):
    train, test = load_tool('train'), load_tool('test')
    stock, work_dir = write_config('seg', 'stock'), tmp_path / 'run'
    train.main(train.parse_args([str(stock), '--work-dir', str(work_dir)]))
    distilled = write_config('seg', 'distilled', extra=DISTILLER)
    results = [
        test.main(
            test.parse_args(
                [str(config), str(work_dir / 'iter_4.pth'), '--work-dir', str(tmp_path / name)]
                + ['--show-dir', str(tmp_path / name), '--split', 'val']
            )
        )
        for name, config in (('a', stock), ('b', distilled))
    ]
    assert results[0] == results[1]
    assert 0 < results[0]['mIoU'] <= 100
    assert list((tmp_path / 'b').rglob('*.png'))


def test_stock_student_keeps_no_trace_of_the_distillation(write_config):
    cfg = Config.fromfile(write_config('det', extra=DISTILLER))
    cfg.custom_hooks = [dict(type='mmkd.DistillHook'), dict(type='EMAHook')]
    stock = student_config(cfg)
    assert stock.model.type == 'RetinaNet' and stock.filename == cfg.filename
    assert 'distill' not in stock.default_hooks and 'logger' in stock.default_hooks
    assert [hook.type for hook in stock.custom_hooks] == ['EMAHook']
    assert cfg.model.type == 'mmkd.Distiller'
    assert student_config(stock).to_dict() == stock.to_dict()


def test_two_processes_on_the_cpu_train_alike(write_config, tmp_path, run_tool):
    config = write_config('det', norm='SyncBN')
    options = ['--work-dir', tmp_path / 'run', '--cfg-options', 'train_cfg.max_iters=2']
    done = run_tool('dist_train.sh', config, 2, *options)
    assert 'SyncBN layers were reverted' in done.stdout + done.stderr
    assert torch.load(tmp_path / 'run/iter_2.pth', weights_only=False)['meta']['iter'] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason='--amp is an error only without a GPU')
def test_wrong_input_is_one_last_line_and_no_checkpoint(write_config, tmp_path, run_tool):
    config = write_config('det')
    done = run_tool('train.py', config, '--amp', '--work-dir', tmp_path / 'run', check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('mmkd: error: --amp needs a GPU')
    assert 'Traceback' not in done.stderr
    assert not list(tmp_path.rglob('*.pth'))


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('train', ['missing.py'], 'no config file'),
        ('train', ['CONFIG', '--auto-scale-lr'], 'base_batch_size'),
        ('train', ['CONFIG', '--resume', 'gone.pth'], 'gone.pth'),
        ('train', ['CONFIG', '--launcher', 'pytorch'], 'environment variable RANK'),
        ('test', ['CONFIG'], 'CHECKPOINT is missing'),
        ('test', ['CONFIG', '--teacher'], 'needs a config whose model is mmkd.Distiller'),
        ('test', ['CONFIG', 'f.pth', '--teacher'], 'drop CHECKPOINT'),
        ('test', ['CONFIG', 'f.pth', '--out', 'x.json'], '.pkl'),
    ],
)
def test_wrong_arguments(tool, arguments, message, load_tool, write_config, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.delenv('RANK', raising=False)
    config = str(write_config('det'))
    module = load_tool(tool)
    args = module.parse_args([config if word == 'CONFIG' else word for word in arguments])
    assert load_tool('_common').run_tool(module.main, args) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('mmkd: error: ') and message in last


def test_errors_of_others_keep_their_traceback(load_tool):
    def main(args):
        int('not a number')

    args = load_tool('train').parse_args(['c.py'])
    with pytest.raises(ValueError, match='invalid literal'):
        load_tool('_common').run_tool(main, args)


def test_resume_finds_the_last_checkpoint(load_tool, tmp_path):
    set_resume = load_tool('train').set_resume
    cfg = Config(dict(work_dir=str(tmp_path), load_from='pretrained.pth'))
    set_resume(cfg, 'auto')
    assert cfg.load_from == 'pretrained.pth' and not cfg.get('resume')

    (tmp_path / 'last_checkpoint').write_text('/where/it/was/iter_2.pth')
    with pytest.raises(ValueError, match=r'iter_2\.pth'):
        set_resume(cfg, 'auto')
    (tmp_path / 'iter_2.pth').touch()
    set_resume(cfg, 'auto')
    assert cfg.resume and cfg.load_from == str(tmp_path / 'iter_2.pth')
