"""tools/benchmark.py on toy models: what it prints is what it measured."""

import json
import re
import shlex
from pathlib import Path

import pytest

from mmkd.distillers.model_source import resolve_model

DISTILLATION = """
import copy
teacher = copy.deepcopy(model)
model = dict(
    type='mmkd.Distiller', student=model,
    teacher=dict(config=teacher, checkpoint=None, classes='same'),
    terms=dict(kd=dict(type='LogitKD'), f=dict(type='FeatureKD', tap='backbone[1:]')))
default_hooks.update(distill=dict(type='mmkd.DistillHook'))
"""


@pytest.fixture
def write_distillation(write_config):
    return lambda kind: write_config(kind, extra=DISTILLATION)


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_it_measures_a_distillation(kind, write_distillation, tmp_path, load_tool, capsys):
    config = write_distillation(kind)
    tool, out = load_tool('benchmark'), tmp_path / 'out'
    options = ['--size', '64', '--rounds', '3', '--warmup', '1']
    options += ['--teacher-options', 'fold_bn', 'bfloat16']
    options += ['--cfg-options', 'model.terms.kd.weight=0.5']
    record = tool.main(tool.parse_args([str(config), *options, '--out', str(out)]))

    written = json.loads((out / f'{config.stem}.json').read_text())
    assert written == json.loads(json.dumps(record))
    ms = record['ms']
    assert all(value > 0 for value in ms.values())
    assert ms['distilled'] > ms['student'] and ms['distilled'] > ms['teacher']
    assert record['to_both'] == ms['distilled'] / (ms['student'] + ms['teacher'])
    assert record['to_student'] == ms['distilled'] / ms['student']
    assert set(record['parts']) == {'kd', 'f'}
    assert record['peak_mib']['distilled'] >= record['peak_mib']['student'] > 0.1
    options = {row['option']: row for row in record['teacher_options']}
    assert options['nothing']['difference'] == 0
    assert 0 < options['fold_bn']['difference'] < 1e-3 < options['bfloat16']['difference']
    printed = capsys.readouterr().out
    assert 'With `model.terms.kd.weight=0.5`.' in printed
    assert (out / 'summary.md').read_text() in printed
    assert f'**{record["to_both"]:.2f}**' in printed


@pytest.mark.slow
def test_every_way_to_run_the_teacher_is_measured(write_distillation, load_tool, capsys):
    tool = load_tool('benchmark')
    options = ['--size', '64', '--rounds', '1', '--warmup', '1', '--teacher-options']
    record = tool.main(tool.parse_args([str(write_distillation('seg')), *options]))
    options = {row['option']: row for row in record['teacher_options']}
    assert options.keys() == tool._OPTIONS.keys()
    assert 0 < options['compile']['difference'] < 1e-5
    assert '| fold_bn, compile | ' in capsys.readouterr().out


def test_a_step_without_a_part_leaves_it_as_it_was(write_distillation, load_tool):
    from mmengine.config import Config

    from mmkd.registry import MODELS

    tool = load_tool('benchmark')
    model = MODELS.build(Config.fromfile(write_distillation('seg')).model)
    part = model.distillation.parts[0]
    assert part in model.distillation.active()
    with tool.without(part):
        assert part not in model.distillation.active()
    assert part in model.distillation.active()


def test_the_pages_commands_can_be_measured(load_tool):
    page = (Path(__file__).parents[2] / 'docs/benchmark.md').read_text()
    commands = re.findall(r'^python tools/benchmark.py (configs/.*)$', page, re.M)
    assert len(commands) == 4
    tool = load_tool('benchmark')
    for command in commands:
        args = tool.parse_args(shlex.split(command))
        args.config = str(Path(__file__).parents[2] / args.config)
        cfg = tool.load_config(args)
        tool.check(args, cfg)
        assert resolve_model(cfg.model.teacher.config).model.backbone.depth == 50


def test_the_pages_figures_are_the_records():
    root = Path(__file__).parents[2]
    page = (root / 'docs/benchmark.md').read_text()
    rows = {
        'kd_': r'\| logit KD without exits / .*', 'kd-ds_': r'\| the flagship / .*',
    }  # fmt: skip
    memory = {'kd_': r'\| peak memory .* logit KD .*', 'kd-ds_': r'\| the same: the flagship .*'}
    records = [json.loads(path.read_text()) for path in (root / 'docs/benchmark').glob('*.json')]
    assert len(records) == 4
    for record in records:
        kind = record['config'].split('_')[0] + '_'
        (time,) = re.findall(rows[kind], page)
        (size,) = re.findall(memory[kind], page)
        column = 4 if 'pspnet' in record['config'] else 3
        peak = record['peak_mib']
        more = f'+{peak["distilled"] / peak["student"] - 1:.0%}'.replace('%', ' %')
        assert f'{record["to_both"]:.2f}' == time.split('|')[column].strip(' *')
        assert more == size.split('|')[column].strip(' *')


def test_images_are_as_large_as_asked(write_distillation, load_tool):
    from mmengine.config import Config

    from mmkd.registry import MODELS

    tool = load_tool('benchmark')
    cfg = Config.fromfile(write_distillation('seg'))
    cfg.model.student.setdefault('data_preprocessor', dict(type='SegDataPreProcessor')).update(
        size=(96, 160), pad_val=0, seg_pad_val=255
    )
    tool.pad_to(cfg, 64)
    model = MODELS.build(cfg.model)
    args = tool.parse_args(['config', '--size', '64'])
    (batch,) = tool.make_batches(cfg, args, model)
    assert model.data_preprocessor(batch, training=True)['inputs'].shape == (2, 3, 64, 64)


def test_the_models_own_peak_is_found(load_tool):
    import torch

    kept = []

    def step():
        first = torch.ones(1 << 20)  # 4 MiB
        kept.append(torch.ones(1 << 19))
        del first
        torch.ones(1 << 18)

    assert load_tool('benchmark').peak_memory(step) == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize(
    'options, message',
    [
        ([], 'its model is no mmkd.Distiller'),
        (['--rounds', '0'], '--rounds 0'),
        (['--teacher-options', 'fold'], "--teacher-options 'fold' is none of nothing; fold_bn"),
    ],
)
def test_mistakes_are_one_line(options, message, write_config, write_distillation, load_tool):
    config = write_config('seg') if not options else write_distillation('seg')
    tool = load_tool('benchmark')
    with pytest.raises(ValueError, match=message) as error:
        tool.main(tool.parse_args([str(config), *options]))
    assert '\n' not in str(error.value)
