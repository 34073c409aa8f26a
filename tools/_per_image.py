"""Per-image statistics of a test: what it takes to score any resample of its images.

A file holds, beside ``kind`` and the names of ``images`` [N] and ``classes`` [K]:

* ``IoUMetric``: the areas ``intersect``, ``union``, ``pred`` and ``label`` [N, K] in pixels.
* ``CocoMetric`` (boxes; all areas, at most 100 detections of a class in an image): ``objects``
  [N, K], the objects to be found; ``detections`` [N, K], how many there are; and, detection by
  detection in the order of image, class and falling score, ``scores`` [D] and two bit fields,
  ``matched`` and ``ignored`` [D], bit t of which belongs to ``iou_thrs[t]``.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric

_AREAS = ('intersect', 'union', 'pred', 'label')
_RECALLS = np.linspace(0, 1, 101)  # as COCOeval samples precision
_AT_ONCE = 64  # resamples in memory


def _of_segmentor(metric: BaseMetric, results: list, images: list[str]) -> dict[str, np.ndarray]:
    areas = [np.stack([area.numpy() for area in column]) for column in zip(*results)]
    fill = np.nan if metric.nan_to_num is None else metric.nan_to_num
    arrays = {name: area.astype(np.uint32) for name, area in zip(_AREAS, areas, strict=True)}
    return arrays | dict(images=images, empty=np.float64(fill))


def _of_detector(metric: BaseMetric, results: list, _: list[str]) -> dict[str, np.ndarray]:
    from pycocotools.cocoeval import COCOeval  # comes with mmdet alone

    coco = metric._coco_api
    found = [
        dict(
            image_id=image['img_id'],
            category_id=metric.cat_ids[label],
            bbox=metric.xyxy2xywh(box),
            score=float(score),
        )
        for _, image in results
        for box, score, label in zip(image['bboxes'], image['scores'], image['labels'])
    ]
    thresholds = np.atleast_1d(metric.iou_thrs)
    with contextlib.redirect_stdout(io.StringIO()):
        predicted = coco.loadRes(found) if found else type(coco)()  # it refuses an empty list
        judge = COCOeval(coco, predicted, 'bbox')
    judge.params.imgIds, judge.params.catIds = metric.img_ids, metric.cat_ids
    judge.params.iouThrs, judge.params.maxDets = thresholds, [100]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ['all']
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
    ids = judge.params.imgIds
    shape = len(metric.cat_ids), len(ids)
    objects, detections = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
    bits = 2 ** np.arange(len(thresholds), dtype=np.uint32)
    parts = []  # by class and image; written by image and class
    for place, found in zip(np.ndindex(shape), judge.evalImgs):
        if found is None:  # neither an object nor a detection
            continue
        objects[place] = np.sum(found['gtIgnore'] == 0)
        detections[place] = len(found['dtScores'])
        matched, ignored = found['dtMatches'] > 0, found['dtIgnore'].astype(bool)
        parts.append((place[::-1], found['dtScores'], bits @ matched, bits @ ignored))
    parts.sort(key=lambda part: part[0])
    scores, matched, ignored = (np.concatenate([p[i] for p in parts] or [[]]) for i in (1, 2, 3))
    return dict(
        images=[Path(image['file_name']).name for image in coco.loadImgs(ids)],
        iou_thrs=thresholds,
        objects=objects.T,
        detections=detections.T,
        scores=scores.astype(np.float32),  # what the model gave: half precision would make ties
        matched=matched.astype(np.uint16 if len(bits) <= 16 else np.uint32),
        ignored=ignored.astype(np.uint16 if len(bits) <= 16 else np.uint32),
    )


_KINDS = {
    'mmseg.evaluation.metrics.iou_metric.IoUMetric': _of_segmentor,
    'mmdet.evaluation.metrics.coco_metric.CocoMetric': _of_detector,
}


def write_per_image(metrics: list[BaseMetric], dataset, path: Path) -> bool:
    """Let the first metric that can be scored by images write its file when it is computed.

    Args:
        metrics (list[BaseMetric]): The metrics of an evaluator.
        dataset (BaseDataset): The data that is tested, for the names of its images.
        path (Path): The ``.npz`` file.

    Returns:
        bool: Is there one: mmseg's ``IoUMetric``, or mmdet's ``CocoMetric`` on boxes?
    """
    for metric in metrics:
        kind = type(metric)
        collect = _KINDS.get(f'{kind.__module__}.{kind.__name__}')
        if collect is None or metric.format_only:
            continue
        if collect is _of_detector and 'bbox' not in metric.metrics:
            continue
        metric.compute_metrics = _writer(metric, collect, dataset, path)
        return True
    return False


def _writer(metric: BaseMetric, collect: Callable, dataset, path: Path) -> Callable:
    compute = metric.compute_metrics

    def compute_and_write(results: list) -> dict[str, float]:
        found = compute(results)
        names = [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]
        arrays = collect(metric, results, names)
        path.parent.mkdir(parents=True, exist_ok=True)
        classes = list(metric.dataset_meta['classes'])
        np.savez_compressed(path, kind=type(metric).__name__, classes=classes, **arrays)
        return found

    return compute_and_write


def image_names(path: Path) -> list[str]:
    """Give the names of the images that a file is of, in order."""
    with np.load(path) as file:
        return file['images'].tolist()


def rescore(path: Path, metric: str, weights: np.ndarray) -> np.ndarray | None:
    """Score resamples of the images.

    Args:
        path (Path): A per-image file.
        metric (str): Its key in the result: ``mIoU``, ``mAcc``, ``aAcc``, ``mDice``;
            ``coco/bbox_mAP``, ``coco/bbox_mAP_50``, ``coco/bbox_mAP_75``.
        weights (np.ndarray): How often each image is in each resample, integers [B, N].

    Returns:
        np.ndarray | None: Points, 0..100 [B]; NaN where no class is left. None: the file does not
        hold what this metric needs.
    """
    with np.load(path) as file:
        data = dict(file)
    if str(data['kind']) == 'IoUMetric':
        return _score_areas(data, metric, weights)
    thresholds = data['iou_thrs']
    kept = {
        'coco/bbox_mAP': np.full(len(thresholds), True),
        'coco/bbox_mAP_50': np.isclose(thresholds, 0.5),
        'coco/bbox_mAP_75': np.isclose(thresholds, 0.75),
    }.get(metric)
    return None if kept is None or not kept.any() else _score_boxes(data, kept, weights)


def _score_areas(data: dict, metric: str, weights: np.ndarray) -> np.ndarray | None:
    intersect, union, pred, label = (weights.astype(float) @ data[name] for name in _AREAS)
    with np.errstate(invalid='ignore', divide='ignore'):
        if metric == 'aAcc':
            return 100 * intersect.sum(1) / label.sum(1)
        ratios = dict(mIoU=(intersect, union), mAcc=(intersect, label))
        ratios['mDice'] = 2 * intersect, pred + label
        if metric not in ratios:
            return None
        above, below = ratios[metric]
        values = above / below
    values[np.isnan(values)] = data['empty']
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(1)
    return 100 * np.divide(total, known.sum(1), out=np.full(len(total), np.nan), where=known.any(1))


def _score_boxes(data: dict, kept: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the classes that have objects, and the thresholds, of average precision.

    A detection counts as often as its image. That is the same as repeating the image: of equal
    detections in a row only the last true positive, or none, can carry the precision envelope.
    """
    counts = data['detections'].astype(int)
    image, group = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    bits = np.arange(len(kept))[kept]
    total, classes = np.zeros(len(weights)), np.zeros(len(weights))
    for k in range(counts.shape[1]):
        mine = np.flatnonzero(group == k)
        order = mine[np.argsort(-data['scores'][mine], kind='mergesort')]
        hits, out = (
            (data[name][order, None].astype(int) >> bits) & 1 == 1
            for name in ('matched', 'ignored')
        )
        for start in range(0, len(weights), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            objects = weights[rows] @ data['objects'][:, k].astype(float)
            each = weights[rows][:, image[order]].astype(float)
            precision = _average_precision(each, hits, out, objects)
            total[rows] += np.where(objects > 0, precision, 0)
            classes[rows] += objects > 0
    return 100 * np.divide(total, classes, out=np.full(len(total), np.nan), where=classes > 0)


def _average_precision(
    each: np.ndarray, hits: np.ndarray, out: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """Average precision over 101 recalls and all thresholds, as COCOeval accumulates it.

    Args:
        each (np.ndarray): Weights of the detections, by falling score [B, D].
        hits (np.ndarray): Matched to an object, by threshold [D, T].
        out (np.ndarray): Counts neither way, by threshold [D, T].
        objects (np.ndarray): Weights of the objects [B].

    Returns:
        np.ndarray: 0..1 [B].
    """
    seen = each.cumsum(1)
    total = np.zeros(len(each))
    for hit, ignored in zip(hits.T, out.T):
        places = np.flatnonzero(hit & ~ignored)
        if not len(places):
            continue
        true = each[:, places].cumsum(1)
        counted = seen if not ignored.any() else (each * ~ignored).cumsum(1)
        precision = true / np.maximum(counted[:, places], 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = true / np.maximum(objects, 1)[:, None]
        # each true positive stands for the recalls that are reached with it
        reached = np.searchsorted(_RECALLS, recall, side='right')
        total += (envelope * np.diff(reached, axis=1, prepend=0)).sum(1)
    return total / (len(_RECALLS) * hits.shape[1])
