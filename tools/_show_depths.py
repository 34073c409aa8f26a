"""What tools/show.py draws of the inside: predictions of exits, and feature maps at taps."""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from _show_sheet import Legend, Panel, fit
from mmengine.visualization import Visualizer
from torch import Tensor, nn

from mmkd.exits import CrossExit, DenseExit, RoIExit, SegExit, SemanticExit
from mmkd.terms.tap import Capture, Tap


@dataclass
class Seen:
    """One image as student and teachers take it.

    Args:
        model: A distilled student in eval mode, its exits filled.
        teachers: Teachers by name, those that run.
        inputs: ``[1, 3, H, W]`` as the student's preprocessor made them.
        samples: Its sample, in a list.
        image: ``[h, w, 3]`` RGB as it lies on the disk.
        side: Pixels of the longer side of what is drawn.
    """

    model: nn.Module
    teachers: dict
    inputs: Tensor
    samples: list
    image: np.ndarray
    side: int

    def student(self, taps: list[Tap]) -> list[list[Tensor]]:
        """The student's tensors, tap by tap."""
        capture = Capture(self.model, taps, 'student')
        with capture:
            self.model.distillation.family.forward(self.model, self.inputs, self.samples)
        return [capture.read(tap) for tap in taps]

    def teacher(self, name: str | None, taps: list[Tap]) -> list[list[Tensor]]:
        """A teacher's tensors, tap by tap."""
        heard = self.teachers[name].run(self.inputs, self.samples, taps, predictions=True)
        return [heard.capture.read(tap) for tap in taps]

    def clones(self) -> list:
        """Samples that a prediction may be written to."""
        return [sample.clone() for sample in self.samples]

    def heat(self, feature: Tensor) -> np.ndarray:
        """The image under a map ``[C, H, W]``, the mean of its channels from blue to red."""
        canvas, _ = fit(self.image, self.side)
        cells = feature.float().mean(0)[None, None]
        cells = F.interpolate(cells, self.inputs.shape[-2:], mode='bilinear')
        height, width = self.samples[0].img_shape[:2]
        cells = cells[..., :height, :width]  # maps cover the padding too
        cells = F.interpolate(cells, canvas.shape[:2], mode='bilinear')[0]
        return Visualizer.draw_featmap(cells, canvas, alpha=0.3)


MAPS = Legend(
    'feature maps: mean of the channels, each map by its own range',
    [
        ('lowest', (0, 0, 128), None),
        ('middle', (124, 255, 121), None),
        ('highest', (128, 0, 0), None),
    ],
)


def exit_panels(seen: Seen, part: nn.Module, draw) -> list[Panel]:
    """What an exit predicts, depth by depth.

    Args:
        seen: The image.
        part: One of the exits of the student.
        draw: Gives a picture and a note of a predicted sample.
    """
    own_head = getattr(part, 'own_head', None)
    stages = [x for tensors in seen.student(part.student_taps) for x in tensors]
    if isinstance(part, SegExit):
        outputs = [branch(x) for branch, x in zip(part.branches, stages)]
        names = [f'exit {part.name}, stage {i + 1}' for i in range(len(outputs))]
        if own_head:
            head = seen.model.get_submodule(own_head)
            outputs, names = [head.forward(seen.model.extract_feat(seen.inputs))], [own_head]
        return [Panel(name, *draw(_pixels(seen, x))) for name, x in zip(names, outputs)]
    if isinstance(part, (DenseExit, RoIExit)):
        results = (_dense if isinstance(part, DenseExit) else _regions)(seen, part, stages)
        sample = seen.model.add_pred_to_datasample(seen.clones(), results)[0]
        return [Panel(f'exit {part.name}', *draw(sample))]
    if isinstance(part, SemanticExit):
        stages = seen.model.distillation.family.as_maps(stages, None)
        maps = [branch(x).sigmoid().amax(1) for branch, x in zip(part.branches, stages)]
    elif isinstance(part, CrossExit):
        maps = _cross(seen, part, [f(x) for f, x in zip(part.levels, stages)])
    else:
        raise ValueError(
            f'exit {part.name!r}: show.py does not know what a {type(part).__name__} predicts; '
            'leave --exits out'
        )
    return [
        Panel(
            f'exit {part.name}, stage {i + 1}', seen.heat(x), f'highest score {float(x.max()):.2f}'
        )
        for i, x in enumerate(maps)
    ]


def tap_panels(seen: Seen, address: str) -> list[list[Panel]]:
    """Feature maps of student and teachers at an address, a row for each tensor.

    The teacher's address is that of the term or exit which listens to this one, or the same.

    Raises:
        ValueError: The address is wrong in the student or a teacher.
    """
    tap = Tap.parse(address)
    columns = {'student': seen.student([tap])[0]}
    for name in seen.teachers:
        pairs = {
            ours: theirs
            for part in seen.model.distillation.parts
            if part.uses_teacher and part.teacher == name and not isinstance(part, CrossExit)
            for ours, theirs in zip(part.student_taps, part.teacher_taps)
        }
        title = f'teacher {name}' if name else 'teacher'
        columns[title] = seen.teacher(name, [pairs.get(tap, tap)])[0]
    for tensors in columns.values():
        for x in tensors:
            if x.dim() != 4:
                raise ValueError(
                    f'--taps {address}: a tensor of shape {tuple(x.shape)} is no map [B, C, H, W]'
                )
    rows = []
    for i in range(max(map(len, columns.values()))):
        rows.append([])
        for title, tensors in columns.items():
            if i < len(tensors):
                x = tensors[i][0]
                place = address if len(tensors) == 1 else f'{address}, {i + 1}.'
                note = 'x'.join(str(n) for n in x.shape)
                rows[-1].append(Panel(f'{title}: {place}', seen.heat(x), note))
    return rows


def _pixels(seen: Seen, logits: Tensor):
    head = seen.model.distillation.family.head(seen.model)
    samples = seen.clones()
    logits = head.predict_by_feat(logits, [s.metainfo for s in samples])
    return seen.model.postprocess_result(logits, samples)[0]


def _dense(seen: Seen, part, stages: list[Tensor]) -> list:
    outputs = part.predict(stages, seen.model.distillation.family)
    metas = [sample.metainfo for sample in seen.samples]
    return part.branch.predict_by_feat(*outputs.values(), batch_img_metas=metas, rescale=True)


def _regions(seen: Seen, part, stages: list[Tensor]) -> list:
    from mmdet.structures.bbox import bbox2roi

    features = seen.model.extract_feat(seen.inputs)
    proposals = seen.model.rpn_head.predict(features, seen.clones(), rescale=False)
    rois = bbox2roi([p.bboxes for p in proposals])
    pyramid = [level(x) for level, x in zip(part.levels, stages)]
    cls, box = part.branch(part.extractor(pyramid, rois))
    return part.branch.predict_by_feat(
        (rois,), (cls,), (box,), [s.metainfo for s in seen.samples],
        rcnn_test_cfg=seen.model.roi_head.test_cfg, rescale=True,
    )  # fmt: skip


def _cross(seen: Seen, part, features: list[Tensor]) -> list[Tensor]:
    teacher = seen.model.distillation.teachers[part.teacher]
    theirs = seen.teacher(part.teacher, part.teacher_taps)
    outputs = teacher.family.cross_outputs(
        teacher.model, (features, features), part.head_levels, part.start, theirs
    )
    return [x[0] for x in teacher.family.score_maps(teacher.model, outputs)]
