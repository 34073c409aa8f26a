"""tools/show.py: errors counted by hand, and sheets of toy students that a real run trained."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmkd.testing import toy_config, toy_distiller, train, write_toy_data

SIDE = 100


def test_pixels_mended_and_made(load_tool):
    truth = np.array([[0, 1, 1], [2, 2, 255]])
    before = np.array([[0, 0, 1], [1, 0, 0]])
    after = np.array([[0, 1, 0], [1, 2, 1]])
    errors = load_tool('_show_pixels').pixel_errors
    masks = {name: m.astype(int).tolist() for name, m in errors(truth, after, before).items()}
    assert masks == dict(
        mended=[[0, 1, 0], [0, 1, 0]], made=[[0, 0, 1], [0, 0, 0]], left=[[0, 0, 0], [1, 0, 0]]
    )
    assert errors(truth, after)['wrong'].astype(int).tolist() == [[0, 0, 1], [1, 0, 0]]


def boxes(*rows, **more) -> InstanceData:
    """Squares of side 10 from ``(x, label, score)``."""
    x, labels, scores = (torch.tensor([row[i] for row in rows]) for i in range(3))
    corners = torch.stack([x, x * 0, x + 10, x * 0 + 10], 1).float()
    return InstanceData(bboxes=corners, labels=labels, scores=scores, **more)


def lefts(boxes: torch.Tensor) -> list[float]:
    return boxes[:, 0].tolist()


def test_a_detection_takes_one_object_of_its_class(load_tool):
    tool = load_tool('_show_boxes')
    ignored = torch.tensor([False, False, False, True])
    truth = boxes((0, 0, 1.0), (100, 0, 1.0), (200, 1, 1.0), (300, 0, 1.0), ignored=ignored)
    found = boxes(
        (1, 0, 0.5),  # the first object, but less sure than the next
        (2, 0, 0.9),  # the first object, IoU 8/12
        (106, 0, 0.8),  # IoU 4/16: misses the second
        (200, 0, 0.7),  # another class
        (302, 0, 0.6),  # inside an ignored object
    )
    hit, false = tool.match(found, truth)
    assert hit.tolist() == [True, False, False, False]
    assert false.tolist() == [True, False, True, True, False]
    hit, false = tool.match(found[:0], truth)
    assert not hit.any() and len(false) == 0
    hit, false = tool.match(found, truth[:0])
    assert len(hit) == 0 and false.all()


def test_objects_and_false_alarms_mended_and_made(load_tool):
    errors = load_tool('_show_boxes').box_errors
    truth = boxes((0, 0, 1.0), (100, 0, 1.0), (200, 0, 1.0), (300, 0, 1.0))
    before = boxes((0, 0, 0.9), (100, 0, 0.9), (400, 0, 0.9), (500, 0, 0.9))
    after = boxes((0, 0, 0.9), (200, 0, 0.9), (501, 0, 0.9), (600, 0, 0.9))
    found = {name: tuple(map(lefts, pair)) for name, pair in errors(truth, after, before).items()}
    assert found == dict(mended=([200], [400]), made=([100], [600]), left=([300], [501]))
    (missed, false) = errors(truth, after)['wrong']
    assert lefts(missed) == [100, 300] and lefts(false) == [501, 600]


class Run:
    """A distillation of two steps with its exits; the student alone is its first step."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.data = write_toy_data(folder / 'data')
        cfg = toy_config(
            kind, self.data, folder / 'run', toy_distiller(kind), iters=2, val_interval=2,
            save_interval=1, test_cfg=dict(type='TestLoop'),
        )  # fmt: skip
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
        train(cfg)
        self.config = str(folder / 'distilled.py')
        cfg.dump(self.config)
        self.stock = str(folder / 'run' / 'student.student.py')
        self.alone, self.checkpoint = (str(folder / 'run' / f'iter_{i}.pth') for i in (1, 2))


@pytest.fixture(scope='module')
def det(tmp_path_factory) -> Run:
    """A detector."""
    return Run('det', tmp_path_factory.mktemp('det'))


@pytest.fixture(scope='module')
def seg(tmp_path_factory) -> Run:
    """A segmentor."""
    return Run('seg', tmp_path_factory.mktemp('seg'))


@pytest.fixture
def show(load_tool, tmp_path):
    """A function that draws sheets and gives their files."""
    tool = load_tool('show')

    def run(*words) -> list[Path]:
        options = ['--out', tmp_path, '--side', SIDE, '--score-thr', 0.01, '--device', 'cpu']
        return tool.main(tool.parse_args([str(w) for w in (*words, *options)]))

    return run


@pytest.fixture
def gallery(load_tool):
    """A function that gives what a sheet of the first image is made of, titles by group."""
    tool, common = load_tool('show'), load_tool('_common')

    def build(config, *files, **options):
        args = tool.parse_args([str(config), str(files[0])])
        return tool.Gallery(common.load_config(args), *files, side=SIDE, **options)

    return build


def columns(file: Path, load_tool) -> float:
    """How many panels stand side by side, from the width of a sheet."""
    sheet = load_tool('_show_sheet')
    cell = max(SIDE / sheet.DPI, 1.6) + 0.08
    return (cv2.imread(str(file)).shape[1] / sheet.DPI - 0.08) / cell


def titles(groups) -> list[list[str]]:
    return [[panel.title for panel in group] for group in groups]


MAIN = ['image', 'ground truth', 'student alone', 'distilled', 'teacher']


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_panels_of_a_distillation(kind, request, gallery):
    run = request.getfixturevalue(kind)
    made = gallery(run.config, run.checkpoint, run.alone)
    ((path, item, truth),) = made.of_data([0])
    groups = made.panels(path, item, truth, taps=['backbone[2:4]'])
    assert titles(groups) == [
        [*MAIN, 'errors mended and made'],
        ['student: backbone[2:4], 1.', 'teacher: backbone[2:4], 1.'],
        ['student: backbone[2:4], 2.', 'teacher: backbone[2:4], 2.'],
    ]
    assert {p.image.shape for group in groups for p in group} == {(SIDE, SIDE, 3)}
    assert [group[1].note for group in groups[1:]] == ['32x4x4', '64x2x2']
    legends = [legend.title.split(',')[0] for legend in made.legends(True)]
    assert legends[-1] == 'errors'


def test_what_a_sheet_says_is_what_the_model_predicts(seg, gallery):
    made = gallery(seg.config, seg.checkpoint)
    ((path, item, truth),) = made.of_data([3])
    main = made.panels(path, item, truth)[0]
    batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
    with torch.no_grad():
        found = made.model.test_step(batch)[0].pred_sem_seg.data[0].numpy()
    label = cv2.imread(str(seg.data / 'masks' / '3.png'), cv2.IMREAD_GRAYSCALE)
    right = 100 * (found == label).mean()
    notes = {panel.title: panel.note for panel in main}
    assert notes['distilled'] == f'{right:.1f} % of pixels right'
    assert notes['errors'] == f'wrong {100 - right:.1f} %'


def test_boxes_lie_where_the_file_has_them(det, gallery):
    made = gallery(det.config, det.checkpoint)
    truth = next(made.of_data([0]))[2]
    drawn, note = made.painter.draw_truth(np.full((64, 64, 3), 255, np.uint8), truth)
    assert note == '1 object'
    x, y = (truth.bboxes[0, :2] * SIDE / 64).tolist()
    coloured = np.argwhere((drawn < 250).any(2))
    assert np.abs(coloured.min(0) - [y, x]).max() <= 2
    assert np.abs(coloured.max(0) - [y + SIDE / 2, x + SIDE / 2]).max() <= 2


@pytest.mark.parametrize('kind', ['det', 'seg'])
def test_exits_predict_with_the_weights_beside_the_student(kind, request, gallery, load_tool):
    run = request.getfixturevalue(kind)
    made = gallery(run.config, run.checkpoint)
    saved = torch.load(run.checkpoint, weights_only=False)['distill_state']['parts']
    (part,) = [p for p in made.model.distillation.parts if p.kind == 'exit']
    assert any(not torch.equal(v, saved['exits.stages'][k]) for k, v in part.state_dict().items())
    load_tool('show').fill_exits(made.model, load_tool('show').read_checkpoint(run.checkpoint))
    assert all(torch.equal(v, saved['exits.stages'][k]) for k, v in part.state_dict().items())
    ((path, item, truth),) = made.of_data([0])
    (_, exits) = made.panels(path, item, truth, exits=True)
    stages = ['exit stages, stage 1', 'exit stages, stage 2']
    assert titles([exits]) == [['exit stages'] if kind == 'det' else stages]


def test_sheets_are_written_one_for_each_image(det, show, load_tool, capsys):
    files = show(det.config, det.checkpoint, '--alone', det.alone, '--index', 0, 3, '--exits')
    assert [file.name for file in files] == ['0.png', '3.png']
    assert capsys.readouterr().out.splitlines()[-2:] == [str(file) for file in files]
    assert [columns(file, load_tool) for file in files] == pytest.approx([6, 6], abs=0.01)


def test_images_without_labels_and_stock_configs_have_fewer_panels(seg, show, load_tool, tmp_path):
    picture = seg.data / 'images' / '1.png'
    words = ['--image', picture, picture, '--format', 'jpg']
    files = show(seg.config, seg.checkpoint, '--alone', seg.alone, *words)
    assert [file.name for file in files] == ['1.jpg', '1_1.jpg']
    assert columns(files[0], load_tool) == pytest.approx(4, abs=0.01)  # no labels, no errors
    (file,) = show(seg.stock, seg.checkpoint)  # image, labels, student, errors
    assert columns(file, load_tool) == pytest.approx(4, abs=0.01)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--index', '8'], '--index 8: the data has 8 images'),
        (['--image', 'nowhere.jpg'], 'nowhere.jpg: there is no such file'),
        (['--alone', 'nowhere.pth'], "'nowhere.pth' does not exist"),
        (['--taps', 'backbon'], "'backbon' names no module"),
        (['--taps', 'decode_head.conv_seg[5]'], 'points outside'),
        (['--split', 'val', '--cfg-options', 'val_dataloader=None'], 'no val_dataloader'),
    ],
)
def test_one_line_names_the_mistake(seg, show, words, message):
    with pytest.raises(ValueError, match=message.replace('[', r'\[')):
        show(seg.config, seg.checkpoint, *words)


def test_exits_need_weights_and_a_distillation(seg, show, tmp_path):
    with pytest.raises(ValueError, match='need the config of a distillation'):
        show(seg.stock, seg.checkpoint, '--exits')
    plain = tmp_path / 'plain.pth'
    torch.save(torch.load(seg.checkpoint, weights_only=False)['state_dict'], plain)
    with pytest.raises(ValueError, match="no weights that fit exit 'stages'"):
        show(seg.config, plain, '--exits')
