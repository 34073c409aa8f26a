"""What is counted of detectors: objects found, and detections that are right."""

import contextlib
import io
from types import SimpleNamespace

import torch
from _analyze_models import Listener
from mmengine.registry import METRICS
from mmengine.structures import InstanceData
from torch import Tensor

from mmkd.analysis import (
    Agreement,
    AveragePrecision,
    Calibration,
    Detections,
    Remainder,
    bin_of,
    box_iou,
    cell_classes,
)

SIZES = {'small': 32**2, 'medium': 96**2, 'large': 1e10}  # pixels of the image as it is stored
BINS = 10


class DetectorAnalysis:
    """Objects and detections, whatever finds them; and the raw predictions of dense heads.

    Args:
        teacher: the teacher.
        students: the students.
        classes: names of the student's classes.
        loader: of the images that judge.
        cfg: the config, for its metric.
        options: ``args`` of the tool.
    """

    score_name, probe_name, unit = 'box mAP', 'AP of cells', 'objects'

    def __init__(self, teacher: Listener, students: list[Listener], classes, loader, cfg, options):
        self.teacher, self.students, self.classes = teacher, students, classes
        self.match = teacher.teacher.match
        self.sure = options.score_thr
        self.settings = dict(sizes_in_pixels=SIZES, score_thr=self.sure, iou_thr=0.5)
        self.images = 0
        self.probe_classes = len(classes) + 1
        self._objects = read_objects(loader.dataset)
        self._dense = {x.name: hasattr(x.family, 'light_head') for x in (teacher, *students)}
        self.notes = tuple(
            f'{name}: no dense head, so neither dark knowledge nor exits are looked at'
            for name, dense in self._dense.items() if not dense
        ) + tuple(
            f'{s.name}: exit {name!r} is a {type(part).__name__}, which gives no boxes of its own'
            for s in students for name, part in s.parts.items() if not hasattr(part, 'extra')
        )  # fmt: skip
        bins = [f'{i / BINS:.1f}-{(i + 1) / BINS:.1f}' for i in range(BINS)]
        groups = dict(
            overall=['objects', 'false alarms'], by_class=classes, by_size=SIZES, by_confidence=bins
        )
        self._agreement = {
            s.name: {key: Agreement(value) for key, value in groups.items()} for s in students
        }
        self._calibration = {name: Calibration() for name in self._dense}
        self._dark = {name: Remainder() for name in self._dense}
        self._cells: dict[tuple, AveragePrecision] = {}
        self._metrics: dict[tuple, object] = {}
        self._values: dict[tuple, float | None] = {}
        self._evaluator = cfg[f'{options.split}_evaluator']
        self._metainfo = loader.dataset.metainfo
        self._seen = []

    def cell_labels(self, inputs: Tensor, samples: list):
        """A function that gives the classes of the cells of a map of a training batch."""
        family, canvas = self.students[0].family, tuple(inputs.shape[-2:])
        boxes = family.boxes(samples)

        def labels(size):
            cells = [
                cell_classes(b, s.gt_instances.labels, size, canvas, len(self.classes))
                for b, s in zip(boxes, samples)
            ]
            return torch.stack(cells)

        return labels

    def exits(self, listener: Listener, heard, inputs: Tensor) -> dict[str, tuple]:
        """Raw predictions of the exits that have a head, by name."""
        found = {}
        for name, part in listener.parts.items():
            if hasattr(part, 'extra'):
                stages = [x for tap in part.student_taps for x in heard.capture.read(tap)]
                found[name] = ((part.branch, part.predict(stages, listener.family)), stages)
        return found

    def update(self, inputs: Tensor, samples: list, said: dict, early: dict, probes: dict) -> None:
        """Adds a batch.

        Args:
            inputs: ``[B, 3, H, W]``.
            samples: the batch's samples.
            said: what each model gave, by its name.
            early: heads and raw predictions of its exits.
            probes: logits of its probes by stage.
        """
        final = {}
        for listener in (self.teacher, *self.students):
            outputs = said[listener.name].predictions.outputs
            final[listener.name] = found = self._predict(listener, outputs, inputs, samples)
            self._judge((listener.name, 'final', ''), found, samples)
            for where, (head, raw) in early[listener.name].items():
                boxes = self._decode(head, raw, samples)
                self._judge((listener.name, 'exit', where), boxes, samples)
            if self._dense[listener.name]:
                self._read_dark(listener, outputs)
        self._score_probes(inputs, samples, probes)
        for index, sample in enumerate(samples):
            self._seen.append(sample.metainfo['img_id'])
            self._update_image(
                self._objects[self._seen[-1]],
                {name: _as_detections(images[index]) for name, images in final.items()},
            )

    def _predict(self, listener: Listener, outputs: dict, inputs, samples) -> list[InstanceData]:
        if self._dense[listener.name]:
            found = self._decode(listener.model.bbox_head, outputs, samples)
            if listener.teacher is None:
                return found
            wrapped = [SimpleNamespace(pred_instances=x) for x in found]
            wrapped = listener.family.rename_classes(wrapped, self.match)
            return [x.pred_instances for x in wrapped]
        predict = (listener.teacher or listener.model).predict
        return [s.pred_instances for s in predict(inputs, samples, rescale=True)]

    def _decode(self, head, outputs: dict, samples) -> list[InstanceData]:
        metas = [sample.metainfo for sample in samples]
        return head.predict_by_feat(*outputs.values(), batch_img_metas=metas, rescale=True)

    def _read_dark(self, listener: Listener, outputs: dict) -> None:
        shared = self.match.teacher if listener.teacher else self.match.student
        for x in listener.family.score_logits(listener.model, outputs):
            scores = shared(x.float(), dim=1).sigmoid().permute(0, 2, 3, 1).flatten(0, 2)
            total = scores.sum(1, keepdim=True).clamp(min=1e-9)
            self._dark[listener.name].update(scores / total, scores.amax(1))

    def _judge(self, key: tuple, found: list[InstanceData], samples) -> None:
        if key not in self._metrics:
            configs = self._evaluator
            config = configs[0] if isinstance(configs, (list, tuple)) else configs
            with _silence():
                self._metrics[key] = METRICS.build(dict(config))
            self._metrics[key].dataset_meta = self._metainfo
        results = [
            dict(sample.to_dict(), pred_instances=image.to_dict())
            for sample, image in zip(samples, found)
        ]
        self._metrics[key].process({}, results)

    def _score_probes(self, inputs: Tensor, samples: list, probes: dict) -> None:
        background, canvas = len(self.classes), tuple(inputs.shape[-2:])
        known = {}
        for name, stages in probes.items():
            for stage, logits in stages.items():
                size = tuple(logits.shape[-2:])
                if size not in known:
                    cells = []
                    for sample in samples:
                        boxes, labels, ignored = self._objects[sample.metainfo['img_id']]
                        scale = boxes.new_tensor(sample.metainfo['scale_factor']).repeat(2)[:4]
                        boxes, labels = (boxes * scale)[~ignored], labels[~ignored]
                        cells.append(cell_classes(boxes, labels, size, canvas, background))
                    known[size] = torch.stack(cells).flatten().to(logits.device)
                log_p = logits.log_softmax(1).permute(0, 2, 3, 1).flatten(0, 2)[:, :background]
                log_odds = log_p - (-torch.expm1(log_p.clamp(max=-1e-6))).log()
                key = (name, stage)
                self._cells.setdefault(key, AveragePrecision(background))
                self._cells[key].update(log_odds, known[size])

    def _update_image(self, objects: tuple, found: dict[str, Detections]) -> None:
        boxes, labels, ignored = objects
        device = found['teacher'].boxes.device
        boxes, labels, ignored = (x.to(device) for x in (boxes, labels, ignored))
        crowd, boxes, labels = boxes[ignored], boxes[~ignored], labels[~ignored]
        for name, detections in found.items():
            hidden = (box_iou(detections.boxes, crowd) >= 0.5).any(1)
            right = detections.right(boxes, labels)
            keep = right | ~hidden
            self._calibration[name].update(detections.scores[keep], right[keep])
            found[name] = detections[keep]

        ours = torch.tensor(self.match.ours or range(len(self.match.names)), device=device)
        shared = torch.isin(labels, ours)  # an object of which the teacher knows nothing is out
        objects, known = boxes[shared], labels[shared]
        area = (objects[:, 2:] - objects[:, :2]).prod(1)
        limits = area.new_tensor(list(SIZES.values())[:-1])
        surest = {name: detections.sure(self.sure) for name, detections in found.items()}
        teacher = surest['teacher']
        said = teacher.says_of(objects)
        hits = teacher.right(boxes, labels)
        there = torch.where(hits, teacher.labels, -1)
        bins = bin_of(teacher.scores, BINS)
        for student in self.students:
            counts, ours = self._agreement[student.name], surest[student.name]
            answer = ours.says_of(objects)
            repeats = torch.where(ours.repeats(teacher), teacher.labels, -1)
            size = torch.bucketize(area, limits, right=True)
            for key, group in (('by_class', known), ('by_size', size)):
                counts[key].update(group, known, said, answer)
            counts['overall'].update(torch.zeros_like(known), known, said, answer)
            alarm = ~hits
            counts['overall'].update(
                torch.ones_like(bins[alarm]), there[alarm], teacher.labels[alarm], repeats[alarm]
            )
            counts['by_confidence'].update(bins, there, teacher.labels, repeats)

    def result(self, name: str) -> dict:
        """What was found of one model."""
        found = dict(
            score=self.score(name, 'final', ''),
            calibration=dict(
                ece=self._calibration[name].ece(), bins=self._calibration[name].rows()
            ),
            dark_knowledge=self._dark[name].means(),
        )
        if name in self._agreement:
            rows = {key: counts.rows() for key, counts in self._agreement[name].items()}
            found['where_teacher_is_wrong'] = rows['overall']
            rows['overall'] = {k: v for k, v in rows['overall'].items() if k == 'objects'}
            found['agreement'] = rows
        return found

    def score(self, name: str, kind: str, where: str) -> float | None:
        """In percent: the config's metric of a model or exit, the AP of the cells of a probe."""
        if kind == 'probe':
            cells = self._cells.get((name, where))
            return None if cells is None else cells.value()
        key = name, kind, where
        metric = self._metrics.get(key)
        if metric is None or key in self._values:
            return self._values.get(key)
        if hasattr(metric, 'img_ids'):
            metric.img_ids = list(self._seen)  # of images that were not shown nothing can be found
        with _silence():
            values = metric.compute_metrics(metric.results)
        best = next((v for k, v in values.items() if k.endswith('mAP')), None)
        self._values[key] = None if best is None else 100 * float(best)
        return self._values[key]


def read_objects(dataset) -> dict:
    """Boxes ``[M, 4]`` in pixels of the stored image, classes, and whether ignored, by image."""
    objects = {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        instances = [x for x in info['instances'] if 'bbox' in x]
        boxes = torch.tensor([x['bbox'] for x in instances], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([x['bbox_label'] for x in instances], dtype=torch.long)
        ignored = torch.tensor([bool(x.get('ignore_flag')) for x in instances], dtype=torch.bool)
        objects[info['img_id']] = boxes, labels, ignored
    return objects


def _silence():
    """pycocotools prints what it does."""
    return contextlib.redirect_stdout(io.StringIO())


def _as_detections(found: InstanceData) -> Detections:
    boxes = getattr(found.bboxes, 'tensor', found.bboxes)
    return Detections(boxes, found.labels, found.scores)
