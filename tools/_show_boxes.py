"""What tools/show.py draws of detectors: boxes, and which objects two students find."""

import numpy as np
import torch
import torch.nn.functional as F
from _show_pixels import LEFT, MADE, MENDED
from _show_sheet import Legend, fit, greyed
from mmengine.structures import InstanceData
from torch import Tensor

from mmkd import analysis
from mmkd.analysis import Detections

IOU = 0.5
_COLOURS = dict(mended=MENDED, made=MADE, left=LEFT, wrong=MADE)
_NAMES = dict(
    mended=('mended: object found now', 'mended: false alarm gone'),
    made=('made: object lost now', 'made: new false alarm'),
    left=('left: object missed by both', 'left: false alarm of both'),
    wrong=('object missed', 'false alarm'),
)


def match(found: InstanceData, truth: InstanceData) -> tuple[Tensor, Tensor]:
    """Which objects are found, and which detections are false alarms, at an IoU of 0.5.

    Args:
        found: ``bboxes`` ``[N, 4]``, ``labels`` and ``scores`` ``[N]``.
        truth: ``bboxes`` ``[G, 4]``, ``labels`` and, where some are ignored, ``ignored`` ``[G]``.

    Returns:
        tuple[Tensor, Tensor]: bool ``[G]``, objects found; bool ``[N]``, false alarms.
    """
    detections = Detections(found.bboxes, found.labels, found.scores)
    return analysis.match(detections, truth.bboxes, truth.labels, truth.get('ignored'), IOU)


def box_errors(truth, after, before=None) -> dict[str, tuple[Tensor, Tensor]]:
    """Which objects and false alarms a student's errors are, and what they were before.

    A false alarm is that of both where the two overlap by an IoU of 0.5 in the same class.

    Args:
        truth: As in :func:`match`.
        after: Detections of the student.
        before: Those of the student it is compared to.

    Returns:
        dict[str, tuple[Tensor, Tensor]]: Boxes ``[n, 4]`` of objects and of false alarms:
        ``mended``, ``made`` and ``left``, or ``wrong`` where there is no other student.
    """
    hit, false = match(after, truth)
    missed = ~hit & ~truth.get('ignored', torch.zeros_like(hit))
    objects, alarms = truth.bboxes, after[false]
    if before is None:
        return dict(wrong=(objects[missed], alarms.bboxes))
    was_hit, was_false = match(before, truth)
    was_missed = ~was_hit & ~truth.get('ignored', torch.zeros_like(hit))
    old = before[was_false]
    kept, new = match(alarms, InstanceData(bboxes=old.bboxes, labels=old.labels))
    return dict(
        mended=(objects[was_missed & hit], old.bboxes[~kept]),
        made=(objects[missed & was_hit], alarms.bboxes[new]),
        left=(objects[missed & was_missed], alarms.bboxes[~new]),
    )


class Boxes:
    """Draws labelled and predicted boxes, and predicted masks of instances.

    Args:
        visualizer: One of mmdet's.
        classes: Names of the classes.
        palette: Colours ``(r, g, b)`` of the classes.
        side: Pixels of the longer side of what is drawn.
        score_thr: Detections with a lower score are left out.
    """

    def __init__(self, visualizer, classes, palette, side: int, score_thr: float = 0.3) -> None:
        visualizer.dataset_meta = dict(classes=classes, palette=[tuple(c) for c in palette])
        self.visualizer = visualizer
        self.classes = classes
        self.palette = palette
        self.side = side
        self.score_thr = score_thr
        self._seen = set()

    def truth(self, dataset, index: int, sample) -> InstanceData | None:
        """Labelled boxes of an image in its own pixels, or ``None`` if it is not labelled."""
        instances = dataset.get_data_info(index).get('instances')
        if instances is None:
            return None
        boxes = torch.tensor([x['bbox'] for x in instances], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([x['bbox_label'] for x in instances], dtype=torch.long)
        ignored = torch.tensor([bool(x.get('ignore_flag', 0)) for x in instances])
        return InstanceData(bboxes=boxes, labels=labels, ignored=ignored.bool())

    def count(self, truth: InstanceData) -> int:
        """How many objects there are."""
        return len(truth)

    def draw_truth(self, image: np.ndarray, truth: InstanceData) -> tuple[np.ndarray, str]:
        """An image with its labels, and how many they are."""
        counted = truth[~truth.ignored]
        return self._paint(image, counted), f'{len(counted)} object{"s" * (len(counted) != 1)}'

    def draw(self, image: np.ndarray, sample, truth=None) -> tuple[np.ndarray, str]:
        """An image with a prediction, and how many of the objects it finds."""
        found = self._found(sample)
        note = f'{len(found)} detections'
        if truth is not None:
            hit, false = match(found, truth)
            total = int((~truth.ignored).sum())
            note = f'{int(hit.sum())} of {total} found, {int(false.sum())} false alarms'
        return self._paint(image, found), note

    def draw_errors(self, image, truth, after, before=None) -> tuple[np.ndarray, str]:
        """An image with a student's errors, and how many they are."""
        old = None if before is None else self._found(before)
        groups = box_errors(truth, self._found(after), old)
        canvas, scale = fit(image, self.side)
        self.visualizer.set_image(greyed(canvas))
        for name in [n for n in ('left', 'made', 'mended', 'wrong') if n in groups]:
            for boxes, style in zip(groups[name], ('-', '--')):
                if len(boxes):
                    self.visualizer.draw_bboxes(
                        boxes * scale, edge_colors=_COLOURS[name], line_styles=style,
                        line_widths=3, alpha=1.0,
                    )  # fmt: skip
        counts = {name: sum(map(len, boxes)) for name, boxes in groups.items()}
        return self.visualizer.get_image(), ', '.join(f'{n} {c}' for n, c in counts.items())

    def legends(self, errors: str | None) -> list[Legend]:
        """What the colours mean; ``errors``: ``'one'``, ``'two'`` students, or ``None``."""
        seen = [c for c in range(len(self.classes)) if c in self._seen]
        entries = [(self.classes[c], self.palette[c], '-') for c in seen]
        title = f'classes; a number is the score in percent, from {100 * self.score_thr:.0f} on'
        legends = [Legend(title, entries)] if entries else []
        if errors:
            names = ['wrong'] if errors == 'one' else ['mended', 'made', 'left']
            entries = [
                (text, _COLOURS[name], style)
                for name in names
                for text, style in zip(_NAMES[name], ('-', '--'))
            ]
            legends.append(Legend(f'errors, matched at an IoU of {IOU}', entries))
        return legends

    def _found(self, sample) -> InstanceData:
        found = sample.pred_instances.cpu()
        return found[found.scores >= self.score_thr]

    def _paint(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        from mmdet.structures import DetDataSample

        self._seen |= set(instances.labels.tolist())
        canvas, scale = fit(image, self.side)
        drawn = InstanceData(bboxes=instances.bboxes * scale, labels=instances.labels)
        # names of classes are in the legend: many objects leave no room for them
        scores = instances.get('scores')
        drawn.label_names = (
            [''] * len(instances) if scores is None else [f'{100 * s:.0f}' for s in scores.tolist()]
        )
        if 'masks' in instances and len(instances):
            masks = torch.as_tensor(instances.masks).float()[None]
            drawn.masks = F.interpolate(masks, canvas.shape[:2], mode='nearest')[0].bool()
        sample = DetDataSample(gt_instances=drawn)
        self.visualizer.add_datasample('sheet', canvas, sample, draw_pred=False)
        return self.visualizer.get_image()
