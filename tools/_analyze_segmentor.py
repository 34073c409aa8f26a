"""What is counted of segmentors: pixels at the size of the labels."""

import cv2
import numpy as np
import torch
from _analyze_models import Listener
from torch import Tensor

from mmkd.analysis import Agreement, Calibration, MeanIoU, Remainder, bin_of

SIZES = {'small': 1 / 300, 'medium': 3 / 100, 'large': 1.0}  # of the image's area
CONFIDENCE_BINS = 10


class SegmentorAnalysis:
    """Pixels of a teacher and of students whose heads give one map of class logits.

    Args:
        teacher: the teacher.
        students: the students.
        classes: names of the student's classes.
        loader: of the images that judge.
        options: ``args`` of the tool.

    Raises:
        ValueError: a head is of another kind.
    """

    score_name, probe_name, unit = 'mIoU', 'mIoU', 'pixels'
    notes: tuple[str, ...] = ()
    settings = dict(sizes_as_share_of_image=SIZES)

    def __init__(self, teacher: Listener, students: list[Listener], classes, loader, cfg, options):
        for listener in (teacher, *students):
            head = getattr(listener.family, 'head', lambda model: None)(listener.model)
            reason = listener.family.why_no_logits(listener.model)
            if reason or not hasattr(head, 'conv_seg') or head.out_channels == 1:
                reason = reason or f'{type(head).__name__} does not give one for each class'
                raise ValueError(f'{listener.name}: {reason}; of segmentors, those are analysed '
                                 'whose head gives a map of class logits')  # fmt: skip
        self.teacher, self.students, self.classes = teacher, students, classes
        self.match = teacher.teacher.match
        self.images = 0
        self.probe_classes = len(classes)
        names = self.match.names
        bins = [f'{i / 10:.1f}-{(i + 1) / 10:.1f}' for i in range(CONFIDENCE_BINS)]
        groups = dict(overall=['pixels'], by_class=names, by_size=SIZES, by_confidence=bins)
        self._agreement = {
            s.name: {key: Agreement(value) for key, value in groups.items()} for s in students
        }
        everyone = [x.name for x in (teacher, *students)]
        self._calibration = {name: Calibration() for name in everyone}
        self._dark = {name: Remainder() for name in everyone}
        self._scores: dict[tuple, MeanIoU] = {}

    def cell_labels(self, inputs: Tensor, samples: list):
        """A function that gives the classes of the cells of a map of a training batch."""
        student = self.students[0]
        return lambda size: student.family.cell_labels(student.model, size, samples)

    def exits(self, listener: Listener, heard, inputs: Tensor) -> dict[str, tuple]:
        """Logits of the exits' branches, by name, and the tensors they stand on."""
        found = {}
        for name, part in listener.parts.items():
            if getattr(part, 'own_head', None):
                head = listener.model.get_submodule(part.own_head)
                logits = head.forward(listener.model.extract_feat(inputs))
                found[f'{name}/{part.own_head}'] = (logits, None)
                continue
            stages = [x for tap in part.student_taps for x in heard.capture.read(tap)]
            for index, (branch, x) in enumerate(zip(part.branches, stages, strict=True)):
                found[f'{name}/{index}'] = (branch(x), x)
        return found

    def update(self, inputs: Tensor, samples: list, said: dict, early: dict, probes: dict) -> None:
        """Adds a batch.

        Args:
            inputs: ``[B, 3, H, W]``.
            samples: the batch's samples.
            said: what each model gave, by its name.
            early: logits of its exits.
            probes: logits of its probes by stage.
        """
        labels = [self._labels(sample) for sample in samples]
        final = {}
        for listener in (self.teacher, *self.students):
            logits = said[listener.name].predictions.outputs['seg'][0]
            final[listener.name] = self._at_labels(listener, logits, samples)
            for kind, maps in (('exit', early), ('probe', probes)):
                for where, x in maps[listener.name].items():
                    for image, label in zip(self._at_labels(listener, x, samples), labels):
                        # a probe is taught the student's classes, an exit predicts them
                        self._score(listener.name, kind, where, image.argmax(0), label)
        for index, label in enumerate(labels):
            self._update_image(label, {name: images[index] for name, images in final.items()})

    def _labels(self, sample) -> Tensor:
        """``[H, W]``, -1 where nothing counts."""
        label = sample.gt_sem_seg.data[0].long()
        if tuple(label.shape) != tuple(sample.metainfo['ori_shape'][:2]):
            raise ValueError(
                f'labels of {tuple(label.shape)} for an image of {sample.metainfo["ori_shape"]}: '
                "put LoadAnnotations after Resize, as mmseg's test pipelines do"
            )
        return label.masked_fill(label >= len(self.classes), -1)

    def _at_labels(self, listener: Listener, logits: Tensor, samples: list) -> list[Tensor]:
        """``[K, H, W]`` by image, as mmseg's own ``predict`` resizes them."""
        head = listener.family.head(listener.model)
        metas = [sample.metainfo for sample in samples]
        blank = [type(sample)(metainfo=meta) for sample, meta in zip(samples, metas)]
        maps = head.predict_by_feat(logits.float(), metas)
        return [s.seg_logits.data for s in listener.model.postprocess_result(maps, blank)]

    def _score(self, name: str, kind: str, where: str, predicted: Tensor, label: Tensor) -> None:
        keep = label >= 0
        score = self._scores.setdefault((name, kind, where), MeanIoU(len(self.classes)))
        score.update(predicted[keep], label[keep])

    def _update_image(self, label: Tensor, logits: dict[str, Tensor]) -> None:
        match = self.match
        ours = torch.tensor(match.ours or range(len(match.names)), device=label.device)
        for student in self.students:
            self._score(student.name, 'final', '', logits[student.name].argmax(0), label)
        theirs = match.teacher(logits['teacher'], dim=0)
        self._score('teacher', 'final', '', ours[theirs.argmax(0)], label)

        shared = match.label(label)
        keep = shared >= 0
        label = shared[keep]
        size = torch.from_numpy(component_sizes(shared.cpu().numpy())).to(label.device)[keep]
        decided = {}
        for name, x in logits.items():
            x = theirs if name == 'teacher' else match.student(x, dim=0)
            p = x[:, keep].softmax(0)
            confidence, decided[name] = p.max(0)
            self._calibration[name].update(confidence, decided[name] == label)
            self._dark[name].update(p.T)
            if name == 'teacher':
                bins = bin_of(confidence, CONFIDENCE_BINS)
        groups = dict(
            overall=torch.zeros_like(label), by_class=label, by_size=size, by_confidence=bins
        )
        for student in self.students:
            for key, group in groups.items():
                self._agreement[student.name][key].update(
                    group, label, decided['teacher'], decided[student.name]
                )

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
            found['agreement'] = rows
            found['where_teacher_is_wrong'] = rows['overall']
        return found

    def score(self, name: str, kind: str, where: str) -> float | None:
        """mIoU in percent of a model, one of its exits or probes."""
        score = self._scores.get((name, kind, where))
        return None if score is None else score.value()


def component_sizes(label: np.ndarray) -> np.ndarray:
    """For each pixel ``[H, W]`` the size of its connected region of one class, as a number.

    0: below 1/300 of the image, 1: below 3/100, 2: above; COCO's areas of small, medium and large
    in an image of 640x480. Pixels below 0 belong nowhere and get 0.
    """
    limits = np.array(list(SIZES.values())[:-1]) * label.size
    sizes = np.zeros(label.shape, np.int64)
    for index in np.unique(label[label >= 0]):
        _, regions, stats, _ = cv2.connectedComponentsWithStats((label == index).astype(np.uint8))
        areas = stats[:, cv2.CC_STAT_AREA]
        inside = regions > 0
        sizes[inside] = np.searchsorted(limits, areas, side='right')[regions[inside]]
    return sizes
