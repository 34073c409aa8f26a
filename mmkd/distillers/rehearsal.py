"""The dry run: learns channels, strides, level counts and what fires."""

import contextlib
import copy
import random
import uuid
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmkd.families.family import Family
from mmkd.terms.tap import Capture, Tap
from mmkd.terms.term import Term

from .lesson import Heard
from .teacher import Teacher

_LARGEST = 10.0  # no weight that was drawn on purpose is larger


@dataclass
class Rehearsal:
    """What one synthetic batch of 2 showed.

    Attributes:
        model: the throw-away copy of the plain student that ran.
        student_cfg: the student's config.
        family: the student's family.
        student: what it gave.
        teachers: teachers by name.
        heard: what each gave on the same images.
        inputs: the images ``[2, 3, S, S]``.
        loss_names: the student's own log keys.
        changed: addresses whose tensors the student changes in place later.
        firings: how often each of its taps fires.
    """

    model: nn.Module
    student_cfg: dict
    family: Family
    student: Heard
    teachers: dict[str | None, Teacher]
    heard: dict[str | None, Heard]
    inputs: Tensor
    loss_names: tuple[str, ...]
    changed: frozenset[str]
    firings: dict[Tap, int]

    @classmethod
    def run(
        cls, student: nn.Module, student_cfg: dict, family, teachers, parts, labels: bool = True
    ) -> 'Rehearsal':
        """Runs a copy of the student's real ``loss()`` in train mode, and each teacher.

        Without labels the student runs as a teacher does, in train mode.
        """
        taps = {tap for part in parts for tap in student_taps(part, teachers)}
        model = revert_sync_batchnorm(copy.deepcopy(student)).train().to(get_device())
        _tame(model)
        inputs, samples = family.dummy_batch(model, get_device())
        capture = Capture(model, taps, 'student')
        with _private_message_hub(), capture, family.listen(model) as predictions:
            losses = {}
            if labels:
                losses = model.loss(inputs, samples)
            else:
                predictions.outputs = family.forward(model, inputs, samples).outputs
        own, heard = Heard(capture, predictions), {}
        for name, teacher in teachers.items():
            if teacher.is_student:
                heard[name] = own.detached()
                continue
            listeners = [p for p in parts if p.uses_teacher and p.teacher == name]
            asked = {tap for part in listeners for tap in part.teacher_taps}
            heard[name] = teacher.rehearse(inputs, samples, asked)
        return cls(
            model, student_cfg, family, own, teachers, heard, inputs, tuple(losses),
            capture.changed_in_place(), {tap: len(capture.calls(tap)) for tap in taps},
        )  # fmt: skip

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return self.inputs.shape[-1]

    def student_tensors(self, part: Term) -> list[Tensor]:
        """The tensors at a term's taps.

        Raises:
            ValueError: if one of them has no gradient, so that teaching there would do nothing.
        """
        where = f'{part.where}, student'
        tensors = []
        for tap in part.student_taps:
            for x in self.student.capture.read(tap, where):
                if not x.requires_grad and not part.is_off:
                    raise ValueError(
                        f'{part.where}: tap {tap.address!r} has no gradient: a frozen stage, or '
                        'inside a checkpointed block (with_cp); tap a trained stage or the block'
                    )
                tensors.append(x)
        return tensors

    def teacher_tensors(self, part: Term) -> list[Tensor]:
        """The tensors at a term's teacher taps."""
        where = f'{part.where}, teacher'
        capture = self.heard[part.teacher].capture
        return [x for tap in part.teacher_taps for x in capture.read(tap, where)]

    def criterion(self, part: Term, losses: dict, make=None) -> nn.Module:
        """The family's vanilla KD for this pair, or what ``make(student, teacher, losses)`` gives.

        Raises:
            ValueError: if their final predictions cannot be compared.
        """
        teacher = self.teachers[part.teacher]
        reason = (
            self.family.why_no_logits(self.model)
            or teacher.family.why_no_logits(teacher.model)
            or self.family.check_pair(self.model, teacher.model, teacher.family)
        )
        if reason:
            raise ValueError(f'{part.where}: {reason}; or distil features (FeatureKD)')
        if make is None:
            make = self.family.exit_criterion if part.kind == 'exit' else self.family.criterion
        try:
            return make(self.model, teacher.model, losses)
        except ValueError as error:
            raise ValueError(f'{part.where}: {error}') from error


def student_taps(part: Term, teachers: dict) -> list[Tap]:
    """What a part listens to in the student, which may be its teacher as well."""
    teacher = teachers.get(part.teacher) if part.uses_teacher else None
    own = part.teacher_taps if teacher is not None and teacher.is_student else []
    return [*part.student_taps, *own]


@torch.no_grad()
def _tame(model: nn.Module) -> None:
    """Weights that a class leaves as memory was found until ``init_weights`` may be anything."""
    for parameter in model.parameters():
        parameter.nan_to_num_(0.0, 0.0, 0.0).clamp_(-_LARGEST, _LARGEST)


@contextlib.contextmanager
def forked_random_state(seed: int):
    """Random numbers drawn inside leave the outside untouched, and are the same on all ranks."""
    devices = range(torch.cuda.device_count())
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextlib.contextmanager
def _private_message_hub():
    """What models write into mmengine's message hub during the dry run goes into one of its own."""
    name = f'mmkd_dry_run_{uuid.uuid4().hex}'
    hub = MessageHub.get_instance(name)
    hub.update_info('iter', 0)
    hub.update_info('epoch', 0)
    hub.update_info('max_iters', 1)
    hub.update_info('max_epochs', 1)
    try:
        yield
    finally:
        MessageHub._instance_dict.pop(name)
