"""The models of an analysis: a teacher and several students, heard at the same stages."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, nn

from mmkd.distillers.checkpoint import load_strict, read_checkpoint
from mmkd.distillers.lesson import Heard
from mmkd.distillers.teacher import Teacher
from mmkd.registry import MODELS
from mmkd.terms.tap import Capture, Tap


@dataclass
class Listener:
    """A model, and what is heard of it.

    Attributes:
        name: what tables call it.
        model: the model, in eval mode.
        family: its family.
        taps: addresses of its stages.
        teacher: where it is one, what runs it.
        parts: exits whose weights are known, by the user's names.
        distilled: whether its checkpoint is of a distillation.
        checkpoint: the file.
        places: the stage that each of its exits' branches stands on, where that is tapped.
    """

    name: str
    model: nn.Module
    family: object
    taps: list[Tap]
    teacher: Teacher | None = None
    parts: dict = field(default_factory=dict)
    distilled: bool = False
    checkpoint: str = ''
    places: dict[str, str | None] = field(default_factory=dict)

    @torch.no_grad()
    def hear(self, inputs: Tensor, samples: list) -> Heard:
        """Runs it once: its taps, those of its exits, and its final predictions."""
        taps = dict.fromkeys(
            [*self.taps, *(t for p in self.parts.values() for t in p.student_taps)]
        )
        if self.teacher is not None:
            heard = self.teacher.run(inputs, samples, list(taps), True)
        else:
            capture = Capture(self.model, list(taps), f'student {self.name!r}')
            with capture:
                predictions = self.family.forward(self.model, inputs, samples)
            heard = Heard(capture, predictions)
        written = heard.capture.changed_in_place()
        if written:
            raise ValueError(
                f'{self.name}: the model writes over {sorted(written)[0]!r} after it was heard; '
                'name other stages by --taps'
            )
        return heard

    def stages(self, heard: Heard) -> dict[str, Tensor]:
        """Its stages that are maps ``[B, C, H, W]``, by address."""
        found = {}
        for tap in self.taps:
            tensors = heard.capture.read(tap)
            for index, x in enumerate(tensors):
                if x.dim() == 4:
                    found[tap.address if len(tensors) == 1 else f'{tap.address}[{index}]'] = x
        return found


def build_listeners(
    cfg: Config, checkpoints: list[str], names: list[str] | None, taps: list[str] | None,
    teacher_name: str | None,
) -> tuple[Listener, list[Listener], list[str]]:  # fmt: skip
    """Builds the teacher and a student for each checkpoint.

    Returns:
        the teacher, the students, and what could not be taken.

    Raises:
        ValueError: there is no teacher to compare with, a file does not fit, or names are not one
            for each.
    """
    if cfg.model.get('type') != 'mmkd.Distiller':
        raise ValueError(
            f"the config's model is {cfg.model.get('type')!r}: name the config of a distillation "
            "(model.type='mmkd.Distiller'), which says who the teacher is"
        )
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model).to(get_device()).eval()
    teacher = _find_teacher(model, teacher_name)
    found = [Tap.parse(address) for address in taps or _stages(model)]
    theirs = [tap for tap in found if taps or tap.path in _stages(teacher.model)]
    for tap in found:
        tap.find(model, 'student')
    for tap in theirs:
        tap.find(teacher.model, 'teacher')
    students, notes = [], []
    for name, path in zip(_names(checkpoints, names), checkpoints, strict=True):
        student = copy.deepcopy(model)  # takes no teacher along
        checkpoint = read_checkpoint(path)
        load_strict(student, checkpoint, f'student {name!r}')
        parts, missing = _fill_exits(student, checkpoint.parts or {})
        notes += [f'{name}: {line}' for line in missing if checkpoint.parts]
        students.append(
            Listener(
                name,
                student,
                model.distillation.family,
                found,
                None,
                parts,
                bool(checkpoint.parts),
                path,
            )
        )
    return Listener('teacher', teacher.model, teacher.family, theirs, teacher), students, notes


def _find_teacher(model: nn.Module, name: str | None) -> Teacher:
    teachers = model.distillation.teachers or {}
    if not teachers:
        raise ValueError('the config has no teacher to compare with: name one that has')
    if name not in teachers:
        name = next(iter(teachers)) if name is None else name
    if name not in teachers:
        known = ', '.join(str(key) for key in teachers if key)
        raise ValueError(f'--teacher {name}: there is {known or "one without a name"}')
    teacher = teachers[name]
    if type(teacher) is not Teacher:
        raise ValueError(f'teacher {teacher.title!r} is the student itself: nothing to compare')
    if not hasattr(teacher.model, 'predict'):
        raise ValueError(
            f'teacher {teacher.title!r} is a bare backbone: it predicts nothing that could be '
            'compared'
        )
    return teacher


def _stages(model: nn.Module) -> list[str]:
    return [name for name in ('backbone', 'neck') if getattr(model, name, None) is not None]


def _names(checkpoints: list[str], names: list[str] | None) -> list[str]:
    names = names or [Path(path).resolve().parent.name for path in checkpoints]
    if len(names) != len(checkpoints):
        raise ValueError(f'--names: {len(names)} names for {len(checkpoints)} checkpoints')
    if len(set(names)) < len(names):
        names = [f'{n}/{Path(path).stem}' for n, path in zip(names, checkpoints)]
    if len(set(names)) < len(names) or 'teacher' in names:
        raise ValueError(f'--names must differ, and from "teacher": {", ".join(names)}')
    return names


def _fill_exits(student: nn.Module, saved: dict) -> tuple[dict, list[str]]:
    """Exits whose weights a checkpoint holds; and why others are left out."""
    parts, missing = {}, []
    for name, part in student.distillation.named_parts().items():
        if part.kind != 'exit' or part.is_off:
            continue
        state = saved.get(name)
        shapes = [{k: v.shape for k, v in s.items()} for s in (state or {}, part.state_dict())]
        if state is None or shapes[0] != shapes[1]:
            why = 'is not in the checkpoint' if state is None else 'has other parameters there'
            missing.append(f'exit {part.name!r} {why}, and is not judged')
            continue
        part.load_state_dict(state)
        parts[part.name] = part
    return parts, missing
