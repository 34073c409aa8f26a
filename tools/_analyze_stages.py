"""Stage by stage: how alike the teacher's features are, and what can be read from them."""

import torch
import torch.nn.functional as F
from _analyze_models import Listener
from torch import Tensor

from mmkd.analysis import LinearCKA, LinearProbe


class Stages:
    """Similarity and linear probes of the stages of several models.

    Args:
        teacher: whose stages the others' are compared with.
        students: the others.
        classes: how many a probe tells apart.
    """

    def __init__(self, teacher: Listener, students: list[Listener], classes: int) -> None:
        self.teacher = teacher
        self.students = students
        self.classes = classes
        self.seen: dict[str, list[str]] = {}  # stages by model
        self._cka: dict[tuple[str, str], LinearCKA] = {}
        self._probes: dict[tuple[str, str], LinearProbe] = {}
        self._solved: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def learn(self, inputs: Tensor, samples: list, labels) -> None:
        """Shows the probes a training batch.

        Args:
            inputs: ``[B, 3, H, W]``.
            samples: the batch's samples.
            labels: the classes of the cells of a ``(H, W)`` map, ``[B, H, W]``; -1: left out.
        """
        known = {}
        for listener in (self.teacher, *self.students):
            for stage, x in listener.stages(listener.hear(inputs, samples)).items():
                size = tuple(x.shape[-2:])
                if size not in known:
                    known[size] = labels(size).flatten()
                key = listener.name, stage
                if key not in self._probes:
                    self._probes[key] = LinearProbe(self.classes, x.shape[1])
                self._probes[key].update(_rows(x), known[size])

    def solve(self) -> None:
        """Solves all probes."""
        self._solved = {key: probe.solve() for key, probe in self._probes.items()}

    def read(self, listener: Listener, stages: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the probes of a model say, by stage ``[B, K, H, W]``."""
        said = {}
        for stage, x in stages.items():
            if (listener.name, stage) in self._solved:
                weight, bias = (v.to(x.device) for v in self._solved[listener.name, stage])
                said[stage] = F.conv2d(x.float(), weight[:, :, None, None], bias)
        return said

    def compare(self, student: Listener, ours: dict, theirs: dict, inputs, samples) -> None:
        """Adds a batch's cells to the similarity of each stage with the teacher's."""
        for stage, x in ours.items():
            other = _partner(stage, x, ours, theirs)
            if other is None:
                continue
            size = tuple(min(a, b) for a, b in zip(x.shape[-2:], other.shape[-2:]))
            inside = inside_cells(size, inputs, samples).flatten()
            pair = [_rows(F.adaptive_avg_pool2d(m.float(), size))[inside] for m in (x, other)]
            self._cka.setdefault((student.name, stage), LinearCKA()).update(*pair)

    def cka(self, name: str, stage: str) -> float | None:
        """Of a student's stage and the teacher's."""
        measure = self._cka.get((name, stage))
        return None if measure is None else measure.value()


def inside_cells(size, inputs: Tensor, samples: list) -> Tensor:
    """Cells of a ``(H, W)`` map that begin inside their image, not in padding, ``[B, H, W]``."""
    starts = [
        torch.arange(cells, device=inputs.device) * (pixels / cells)
        for cells, pixels in zip(size, inputs.shape[-2:])
    ]
    masks = []
    for sample in samples:
        rows, columns = (x < end for x, end in zip(starts, sample.metainfo['img_shape'][:2]))
        masks.append(rows[:, None] & columns[None])
    return torch.stack(masks)


def _partner(stage: str, x: Tensor, ours: dict, theirs: dict) -> Tensor | None:
    """The teacher's stage of this number where both have as many, else that of nearest size."""
    address = stage.split('[')[0]
    mine = [name for name in ours if name.split('[')[0] == address]
    others = [name for name in theirs if name.split('[')[0] == address]
    if not others:
        return None
    if len(mine) == len(others):
        return theirs[others[mine.index(stage)]]
    return theirs[min(others, key=lambda name: abs(theirs[name].shape[-1] - x.shape[-1]))]


def _rows(x: Tensor) -> Tensor:
    """Cells ``[B * H * W, C]`` of a map."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)
