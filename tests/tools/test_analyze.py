"""tools/analyze.py on a toy segmentor and a toy detector, from training to the files it writes."""

import json

import numpy as np
import pytest
import torch
from toys import plain, save, two_stage

from mmkd.testing import toy_config, toy_distiller, toy_model, train, write_toy_data

BACKENDS = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
LOOP = dict(type='TestLoop')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp('data'))


def trained(kind, root, folder):
    """A config of a distillation, its checkpoint of 2 steps, and one of the student alone."""
    teacher = dict(config=toy_model(kind, width=8), checkpoint=None, classes='same')
    settings = dict(val_interval=100, save_interval=2, visualizer=BACKENDS)
    files = []
    for name, model in (('kd', toy_distiller(kind, teacher=teacher)), ('alone', toy_model(kind))):
        cfg = toy_config(kind, root, folder / name, model, 2, **settings)
        if name == 'kd':
            cfg.dump(str(folder / 'kd.py'))
        cfg.pop('val_evaluator'), cfg.pop('val_cfg'), cfg.pop('val_dataloader')
        cfg.default_hooks.checkpoint.save_best = None
        train(cfg)
        files.append(str(folder / name / 'iter_2.pth'))
    return str(folder / 'kd.py'), files


@pytest.mark.parametrize('kind', ['seg', 'det'])
def test_analysis_of_a_toy(kind, root, tmp_path, load_tool, capsys):
    config, files = trained(kind, root, tmp_path)
    analyze = load_tool('analyze')
    out = tmp_path / 'out'
    options = ['--out', str(out), '--limit', '6', '--probe-images', '4', '--score-thr', '0.05']
    analyze.main(analyze.parse_args([config, *files, *options]))
    result = json.loads((out / 'analysis.json').read_text())

    assert result['images'] == 6 and result['alone'] == 'alone'
    students = result['students']
    assert [students[name]['distilled'] for name in ('kd', 'alone')] == [True, False]
    for model in (result['teacher'], *students.values()):
        assert 0 <= model['calibration']['ece'] <= 1
        assert 0 <= model['dark_knowledge']['mass_off_top'] <= 1
        assert model['stages'] and all(0 <= s['probe'] <= 100 for s in model['stages'].values())
    for model in students.values():
        assert all(-1 <= stage['cka'] <= 1 for stage in model['stages'].values())
        by_class = model['agreement']['by_class'].values()
        overall = next(iter(model['agreement']['overall'].values()))
        for column in ('count', 'same', 'teacher_right', 'followed'):
            assert sum(row[column] for row in by_class) == overall[column]
            sizes = model['agreement']['by_size'].values()
            assert sum(row[column] for row in sizes) == overall[column]
        wrong = next(iter(model['where_teacher_is_wrong'].values()))
        assert 'follow_rate_over_alone' in wrong
    pixels = 6 * 64 * 64 if kind == 'seg' else 6
    assert overall['count'] == pixels
    assert students['kd']['exits'] and not students['alone']['exits']
    assert {row['stage'] for row in students['kd']['exits'].values()} <= set(
        students['kd']['stages']
    )
    text = (out / 'analysis.md').read_text()
    assert '## Agreement by class' in text and text in capsys.readouterr().out
    assert (out / 'analysis.png').stat().st_size > 20_000
    (logged,) = [p for p in out.rglob('*.json') if p.name != 'analysis.json']
    assert json.loads(logged.read_text())['analysis/kd/ece'] == students['kd']['calibration']['ece']
    assert list(out.rglob('vis_image/*.png'))


def test_two_stages_are_compared_by_what_they_find(root, tmp_path, load_tool):
    student, file = two_stage(classes=2), str(tmp_path / 'w.pth')
    save(plain(student), file)
    teacher = dict(config=two_stage(classes=2, width=16), checkpoint=None, classes='same')
    terms = dict(f=dict(type='FeatureKD', tap='neck'))
    model = toy_distiller('det', student=student, teacher=teacher, terms=terms, exits={})
    toy_config('det', root, tmp_path, model, 2, val_interval=100).dump(str(tmp_path / 'kd.py'))
    analyze = load_tool('analyze')
    options = ['--names', 's', '--limit', '2', '--probe-images', '2', '--out', str(tmp_path)]
    result = analyze.main(analyze.parse_args([str(tmp_path / 'kd.py'), file, *options]))
    assert result['students']['s']['agreement']['overall']['objects']['count'] == 2
    assert result['students']['s']['dark_knowledge']['mass_off_top'] is None
    assert result['not_available'][0].startswith('teacher: no dense head')
    assert {'neck[0]', 'backbone[3]'} <= set(result['students']['s']['stages'])


def test_a_student_that_is_its_teacher_agrees_everywhere(root, tmp_path, load_tool):
    model = toy_model('seg')
    teacher = dict(config=model, checkpoint=str(tmp_path / 'alone/iter_2.pth'))
    cfg = toy_config('seg', root, tmp_path / 'alone', model, 2, save_interval=2)
    train(cfg)
    distiller = toy_distiller('seg', teacher=teacher)
    cfg = toy_config('seg', root, tmp_path / 'kd', distiller, 2, val_interval=100, test_cfg=LOOP)
    cfg.dump(str(tmp_path / 'kd.py'))
    analyze = load_tool('analyze')
    args = [str(tmp_path / 'kd.py'), teacher['checkpoint'], '--out', str(tmp_path / 'out')]
    result = analyze.main(analyze.parse_args([*args, '--probe-images', '0']))
    student = result['students']['alone']
    assert student['agreement']['overall']['pixels']['agreement'] == 1.0
    assert student['score'] == pytest.approx(result['teacher']['score'])
    assert student['where_teacher_is_wrong']['pixels']['follow_rate'] == 1.0
    assert all(s['cka'] == pytest.approx(1.0, abs=1e-6) for s in student['stages'].values())
    assert all(s['probe'] is None for s in student['stages'].values())

    test = load_tool('test')
    args = [str(tmp_path / 'kd.py'), teacher['checkpoint'], '--split', 'val']
    score = test.main(test.parse_args([*args, '--work-dir', str(tmp_path / 'test')]))['mIoU']
    assert student['score'] == pytest.approx(score, abs=0.006)  # mmseg rounds


def test_sizes_of_connected_regions(load_tool):
    label = np.full((30, 30), -1)  # 1/300 of it are 3 pixels, 3/100 27
    label[0, :2] = label[0, 4:7] = 1
    label[10:20, 10:20] = 0
    label[12:14, 12:14] = 2
    sizes = load_tool('_analyze_segmentor').component_sizes(label)
    assert sizes[0, :7].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert sizes[10, 10] == 2 and sizes[13, 13] == 1


def test_mistakes_are_one_line(root, tmp_path, load_tool):
    analyze = load_tool('analyze')
    file = tmp_path / 'w.pth'
    torch.save({}, file)
    stock = tmp_path / 'stock.py'
    toy_config('seg', root, tmp_path).dump(str(stock))
    for words, message in (
        ([str(stock), str(file)], r"model is 'EncoderDecoder': name the config of a distillation"),
        ([str(stock), 'none.pth'], "there is no checkpoint 'none.pth'"),
        ([str(stock), str(file), '--limit', '0'], '--limit 0 must be'),
        ([str(stock), str(file), '--score-thr', '2'], '--score-thr 2.0 must lie'),
        ([str(stock), str(file), '--probe-images', '-1'], '--probe-images -1 must be'),
    ):
        with pytest.raises(ValueError, match=message) as error:
            analyze.main(analyze.parse_args(words))
        assert '\n' not in str(error.value)
