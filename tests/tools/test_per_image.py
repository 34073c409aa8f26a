"""tools/test.py --per-image: the file gives the tool's own score, and that of any resample."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import CocoMetric, VOCMetric
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.evaluation.metrics import IoUMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES = ('red', 'green', 'blue')


class Pictures:
    """What is asked of a data set: the names of its images."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def get_data_info(self, index: int) -> dict:
        return dict(img_path=f'folder/{index}.png')


def _scene(count: int, crowd: bool) -> tuple[dict, list[dict]]:
    """Boxes and shifted, scored guesses of them; some images are empty, one class is rare."""
    rng = np.random.default_rng(3)
    images, boxes, guesses = [], [], []
    for i in range(count):
        images.append(dict(id=i + 10, file_name=f'folder/{i}.png', width=200, height=200))
        for _ in range(0 if i % 5 == 4 else 4):
            x, y, w, h = (float(v) for v in [*rng.uniform(0, 100, 2), *rng.uniform(20, 80, 2)])
            label = int(rng.choice(3, p=[0.6, 0.35, 0.05]))
            boxes.append(
                dict(
                    id=len(boxes) + 1, image_id=i + 10, category_id=label + 5, bbox=[x, y, w, h],
                    area=w * h, iscrowd=int(crowd and rng.random() < 0.2),
                )
            )  # fmt: skip
            for _ in range(rng.integers(0, 4)):
                shift = rng.normal(0, 6, 4)
                box = [x + shift[0], y + shift[1], x + w + shift[2], y + h + shift[3]]
                guessed = label if rng.random() < 0.8 else int(rng.integers(3))
                score = np.round(rng.random(), 2)  # rounded, so that there are ties
                guesses.append(dict(img_id=i + 10, box=box, score=score, label=guessed))
    kinds = [dict(id=i + 5, name=name) for i, name in enumerate(CLASSES)]
    return dict(images=images, annotations=boxes, categories=kinds), guesses


def _truth(scene: dict, guesses: list[dict], times: np.ndarray) -> np.ndarray:
    """COCOeval's own mAP, mAP 50 and mAP 75 where each image is there so many times."""
    images, boxes, found = [], [], []
    for image, count in zip(scene['images'], times):
        own = [box for box in scene['annotations'] if box['image_id'] == image['id']]
        for _ in range(count):
            new = len(images) + 1
            images.append(image | dict(id=new))
            first = len(boxes) + 1
            boxes += [box | dict(id=first + i, image_id=new) for i, box in enumerate(own)]
            for guess in guesses:
                if guess['img_id'] == image['id']:
                    x1, y1, x2, y2 = np.float32(guess['box']).tolist()
                    score = float(np.float32(guess['score']))
                    found.append(
                        dict(
                            image_id=new, category_id=guess['label'] + 5, score=score,
                            bbox=[x1, y1, x2 - x1, y2 - y1],
                        )
                    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = scene | dict(images=images, annotations=boxes)
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(found), 'bbox')
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return 100 * judge.stats[:3]


@pytest.mark.parametrize('crowd', [False, True])
def test_boxes_score_as_cocoeval_does_on_the_images_repeated(load_tool, tmp_path, crowd):
    tool = load_tool('_per_image')
    scene, guesses = _scene(15, crowd)
    (tmp_path / 'boxes.json').write_text(json.dumps(scene))
    metric = CocoMetric(ann_file=str(tmp_path / 'boxes.json'))
    metric.dataset_meta = dict(classes=CLASSES)
    path = tmp_path / 'deep/er.npz'
    assert tool.write_per_image([metric], Pictures(15), path)
    for image in scene['images']:
        mine = [guess for guess in guesses if guess['img_id'] == image['id']]
        predicted = dict(
            bboxes=torch.tensor([g['box'] for g in mine]).reshape(-1, 4),
            scores=torch.tensor([g['score'] for g in mine], dtype=torch.float32),
            labels=torch.tensor([g['label'] for g in mine], dtype=torch.long),
        )
        sample = dict(img_id=image['id'], ori_shape=(200, 200), pred_instances=predicted)
        metric.process({}, [sample])
    own = metric.evaluate(15)

    rng = np.random.default_rng(0)
    weights = np.stack([np.ones(15, int), *rng.multinomial(15, [1 / 15] * 15, 4)])
    keys = [f'coco/bbox_mAP{end}' for end in ('', '_50', '_75')]
    scores = np.stack([tool.rescore(path, key, weights) for key in keys], axis=1)
    for times, found in zip(weights, scores):
        assert found == pytest.approx(_truth(scene, guesses, times), abs=1e-9)
    # the tool's own score is rounded to 0.1 points
    assert [round(v / 100, 3) for v in scores[0]] == [own[key] for key in keys]
    assert 5 < scores[0, 0] < 90 and np.ptp(scores[:, 0]) > 1
    assert tool.rescore(path, 'coco/bbox_mAP_s', weights) is None
    assert tool.image_names(path) == [f'{i}.png' for i in range(15)]


def test_a_detector_that_finds_nothing_scores_0(load_tool, tmp_path):
    tool = load_tool('_per_image')
    scene, _ = _scene(5, False)
    (tmp_path / 'boxes.json').write_text(json.dumps(scene))
    metric = CocoMetric(ann_file=str(tmp_path / 'boxes.json'))
    metric.dataset_meta = dict(classes=CLASSES)
    tool.write_per_image([metric], Pictures(5), tmp_path / 'none.npz')
    nothing = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
    for image in scene['images']:
        metric.process({}, [dict(img_id=image['id'], ori_shape=(200, 200), pred_instances=nothing)])
    assert metric.evaluate(5) == {}
    only_empty = np.array([0, 0, 0, 0, 3])  # an image without an object: no class is left
    found = tool.rescore(
        tmp_path / 'none.npz', 'coco/bbox_mAP', np.stack([np.ones(5, int), only_empty])
    )
    assert found[0] == 0 and np.isnan(found[1])


def test_areas_score_as_mmseg_does(load_tool, tmp_path):
    tool = load_tool('_per_image')
    rng = np.random.default_rng(1)
    metric = IoUMetric(iou_metrics=['mIoU', 'mDice'])
    metric.dataset_meta = dict(classes=CLASSES)
    path = tmp_path / 'areas.npz'
    assert tool.write_per_image([metric], Pictures(6), path)

    def judged(chosen: list[int]) -> dict:
        other = IoUMetric(iou_metrics=['mIoU', 'mDice'])
        other.dataset_meta = dict(classes=CLASSES)
        other.process({}, [samples[i] for i in chosen])
        return other.evaluate(len(chosen))

    samples = []
    for i in range(6):
        label = rng.integers(0, 2 + (i == 0), (1, 40, 40))
        label[:, :4] = 255
        pred = np.where(rng.random(label.shape) < 0.7, label, 0) % 3
        samples.append(
            dict(
                pred_sem_seg=dict(data=torch.from_numpy(pred)),
                gt_sem_seg=dict(data=torch.from_numpy(label)),
            )
        )
    metric.process({}, samples)
    own = metric.evaluate(6)
    # the second resample lacks the third class
    chosen = [[0, 1, 2, 3, 4, 5], [1, 1, 2, 5, 5, 5], [0, 0, 3, 4, 4, 2]]
    weights = np.array([np.bincount(each, minlength=6) for each in chosen])
    for key in ('mIoU', 'mAcc', 'aAcc', 'mDice'):
        found = tool.rescore(path, key, weights)
        expected = [judged(each)[key] for each in chosen]  # rounded to 0.01 points
        assert found == pytest.approx(expected, abs=0.005001)
        assert found[0] == pytest.approx(own[key], abs=0.005001)
    area = np.load(path)
    iou = area['intersect'].sum(0) / area['union'].sum(0)
    assert tool.rescore(path, 'mIoU', weights)[0] == pytest.approx(100 * iou.mean(), abs=1e-9)
    assert (area['label'].sum(1) == 36 * 40).all()
    assert tool.rescore(path, 'mFscore', weights) is None


@pytest.mark.parametrize('kind, key', [('det', 'coco/bbox_mAP'), ('seg', 'mIoU')])
def test_the_tool_writes_a_file(load_tool, run_tool, write_config, tmp_path, kind, key):
    config, folder = write_config(kind), tmp_path / 'test'
    path, checkpoint = tmp_path / 'per_image.npz', tmp_path / 'untrained.pth'
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), checkpoint)
    done = run_tool('test.py', config, checkpoint, '--work-dir', folder, '--per-image', path)
    assert 'no file is written' not in done.stdout
    (file,) = folder.glob('*/*.json')
    tool = load_tool('_per_image')
    score = tool.rescore(path, key, np.ones((1, 4), int))[0]
    own = json.loads(file.read_text())[key] * (100 if kind == 'det' else 1)
    assert score == pytest.approx(own, abs=0.05 if kind == 'det' else 0.005)
    assert tool.image_names(path) == [f'{i}.png' for i in range(4)]


def test_what_cannot_be_scored_by_images_is_said(load_tool, tmp_path):
    tool, test = load_tool('_per_image'), load_tool('test')
    assert not tool.write_per_image([VOCMetric()], Pictures(1), Path('x.npz'))
    boxes = tmp_path / 'boxes.json'
    boxes.write_text(json.dumps(_scene(2, False)[0]))
    masks = CocoMetric(ann_file=str(boxes), metric='segm')
    assert not tool.write_per_image([masks], Pictures(1), Path('x.npz'))
    args = test.parse_args(['config.py', 'a.pth', '--per-image', 'x.pkl'])
    with pytest.raises(ValueError, match=r"--per-image writes an \.npz file, got 'x\.pkl'"):
        test.check_args(args, distilled=False)
