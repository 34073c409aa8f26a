"""tools/plot_log.py: joined curves are the log's values, picture and mistakes."""

import json

import cv2
import pytest

CONFIG = "model = dict(terms=dict(kd=dict(type='LogitKD')), exits=None)\n"


def write_start(work_dir, name: str, rows: list[dict], config: str = CONFIG):
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)) + '\n')
    (folder / 'config.py').write_text(config)
    return work_dir


def row(step: int, own: float, kd: float, **more) -> dict:
    losses = {'loss': own + kd, 'loss_cls': own, 'kd.loss_cls': kd}
    return dict(lr=0.1, time=1.0, **losses, iter=step, step=step, **more)


@pytest.fixture
def resumed(tmp_path):
    """A run that was killed after step 30 and went on from its checkpoint of step 20."""
    work_dir = tmp_path / 'resumed'
    first = [
        row(10, 4.0, 2.0, **{'kd.grad_share': 0.5}), {'mIoU': 11.0, 'time': 0.1, 'step': 10},
        row(20, 3.0, 1.0), {'mIoU': 12.0, 'time': 0.1, 'step': 20},
        row(30, 9.0, 9.0), {'mIoU': 99.0, 'time': 0.1, 'step': 30},
    ]  # fmt: skip
    second = [row(30, 2.0, 0.5), {'mIoU': 13.0, 'time': 0.1, 'step': 30}, row(40, 1.0, 0.1)]
    write_start(work_dir, '20260101_000000', first)
    return write_start(work_dir, '20260101_010000', second)


@pytest.fixture
def plot(load_tool, tmp_path):
    tool = load_tool('plot_log')

    def run(*words):
        return tool.main(tool.parse_args([str(w) for w in (*words, '--out', tmp_path / 'log.png')]))

    return run


def test_a_resumed_run_is_one_curve(resumed, load_tool):
    tool = load_tool('plot_log')
    log = tool.read_log(str(resumed))
    assert log.parts == ['kd']
    assert log.curve('loss_cls').to_dict() == {10: 4.0, 20: 3.0, 30: 2.0, 40: 1.0}
    assert log.curve('kd.loss_cls').to_dict() == {10: 2.0, 20: 1.0, 30: 0.5, 40: 0.1}
    assert log.curve('mIoU').to_dict() == {10: 11.0, 20: 12.0, 30: 13.0}
    assert log.curve('kd.grad_share').to_dict() == {10: 0.5}
    ratio = {10: 0.5, 20: 1 / 3, 30: 0.25, 40: 0.1}
    assert log.curve(tool.RATIO).to_dict() == pytest.approx(ratio)


def test_entries_by_plot(resumed, load_tool):
    tool = load_tool('plot_log')
    log = tool.read_log(str(resumed))
    groups = tool.choose([log], None)
    assert list(groups.values()) == [
        ['loss', 'loss_cls'], ['kd.loss_cls'], ['kd.grad_share'], [tool.RATIO], ['mIoU'],
    ]  # fmt: skip
    assert list(tool.choose([log], ['kd.*', 'mIoU']).values()) == [
        ['kd.loss_cls'], ['kd.grad_share'], ['mIoU'],
    ]  # fmt: skip
    assert tool.choose([log, log], ['*loss']) == {'loss': ['loss']}


def test_validations_of_a_loop_by_epochs_lie_at_its_steps(tmp_path, load_tool):
    rows = [
        row(5, 4.0, 2.0, epoch=1), row(10, 3.0, 2.0, epoch=1), {'coco/bbox_mAP': 0.1, 'step': 1},
        row(15, 3.0, 2.0, epoch=2), row(20, 3.0, 2.0, epoch=2), {'coco/bbox_mAP': 0.2, 'step': 2},
    ]  # fmt: skip
    rows[2]['coco/bbox_mAP_l'] = rows[5]['coco/bbox_mAP_l'] = -1.0  # no object of this size
    log = load_tool('plot_log').read_log(str(write_start(tmp_path, '2026', rows)))
    assert log.curve('coco/bbox_mAP').to_dict() == {10: 0.1, 20: 0.2}
    assert list(log.val) == ['coco/bbox_mAP']


def test_pictures_of_one_run_and_of_two(resumed, tmp_path, plot, capsys):
    alone = [{k: v for k, v in row(s, 1.0 / s, 0).items() if 'kd' not in k} for s in (10, 20)]
    write_start(tmp_path / 'alone', '2026', alone, 'model = dict()\n')
    file = plot(resumed, '--smooth', 0.5, '--log')
    one = cv2.imread(str(file)).shape
    assert capsys.readouterr().out.strip() == str(file)
    plot(resumed, tmp_path / 'alone', '--keys', 'loss*')  # two plots side by side
    two = cv2.imread(str(file)).shape
    assert two[1] < one[1] and two[0] < one[0]


def test_runs_are_called_what_they_differ_in(tmp_path, load_tool):
    names = load_tool('plot_log')._names
    assert names([tmp_path / 'kd' / 'seed0', tmp_path / 'alone' / 'seed0']) == ['kd', 'alone']
    assert names([tmp_path / 'kd' / 'seed0', tmp_path / 'kd' / 'seed1']) == ['seed0', 'seed1']
    folders = [tmp_path / 'a' / 's0', tmp_path / 'b' / 's0', tmp_path / 'b' / 's1']
    assert names(folders) == ['a/s0', 'b/s0', 'b/s1']


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--keys', 'kd.los'], r'--keys kd\.los: nothing in the log fits; it has loss, loss_cls,'),
        (['--smooth', '1'], 'give a number from 0 to below 1'),
        (['--legend', 'a', 'b'], '2 names for 1 runs'),
    ],
)
def test_one_line_names_the_mistake(resumed, plot, words, message):
    with pytest.raises(ValueError, match=message):
        plot(resumed, *words)


def test_a_folder_without_a_log(tmp_path, plot):
    with pytest.raises(ValueError, match='name the --work-dir of a training'):
        plot(tmp_path)
