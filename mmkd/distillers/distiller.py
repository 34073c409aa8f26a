"""The model that the runner trains: the student itself, its class extended in place."""

import functools
import inspect

import torch
from mmengine.dist import broadcast, is_distributed
from torch import nn

from mmkd.families import find_family
from mmkd.registry import MODELS, build_in_scope, library_of
from mmkd.terms.term import check_weight

from .checkpoint import load_strict, read_checkpoint
from .distillation import Distillation, build_parts, check_without_labels, prepare_parts
from .mean_teacher import MeanTeacher
from .rehearsal import Rehearsal, forked_random_state
from .self_teacher import SelfTeacher
from .teacher import Teacher
from .teachers import build_teachers

_CHILD = 'distillation.'


@MODELS.register_module()
def Distiller(
    student: dict | None = None,
    teacher: dict | str | None = None,
    terms: dict | None = None,
    exits: dict | None = None,
    student_checkpoint: str | None = None,
    inherit: list[str] | None = None,
    student_loss_weight: float = 1.0,
    data_preprocessor: dict | None = None,
    **unknown,
) -> nn.Module:
    """Builds a student and teaches it: the returned model *is* the student, names and all.

    Args:
        student: config of an mmdet detector or mmseg segmentor.
        teacher: ``dict(config=, checkpoint=, overrides=None, classes=None)``, or several by name;
            ``'self'`` or ``'ema'`` for the student itself or its average.
        terms: terms by name.
        exits: exits by name.
        student_checkpoint: weights to start from, loaded strictly.
        inherit: modules of the student that start as copies of the teacher's.
        student_loss_weight: factor of the student's own losses, which are logged with it; at 0 they
            are not computed, its labels not read, and it runs only as deep as terms and exits ask.
        data_preprocessor: the student's, where the config has it at the top.
        **unknown: refused.

    Returns:
        the student, with one extra child ``distillation``.

    Raises:
        ValueError: one line for anything that would teach wrongly.
    """
    if unknown:
        known = [p for p in inspect.signature(Distiller).parameters if p != 'unknown']
        raise ValueError(
            f'mmkd.Distiller: unknown argument {next(iter(unknown))!r}; it has {", ".join(known)}'
        )
    if not isinstance(student, dict):
        raise ValueError(
            f'mmkd.Distiller: student={student!r} must be the config of a model; write '
            'student=_base_.model'
        )
    student_loss_weight = check_weight('mmkd.Distiller: student_loss_weight', student_loss_weight)
    if isinstance(student_loss_weight, list):
        raise ValueError(f'mmkd.Distiller: student_loss_weight={student_loss_weight} is a list')
    cfg = dict(student)
    if data_preprocessor is not None:
        cfg.setdefault('data_preprocessor', data_preprocessor)
    cfg['_scope_'] = library_of(cfg, 'student')
    model = build_in_scope(cfg, 'student')
    with forked_random_state(_shared_seed()):
        family = find_family(model)
        teachers = build_teachers(teacher, model)
        parts = build_parts(terms, exits, teachers, model)
        for part in parts:
            if part.uses_teacher:
                part.meet(model, teachers[part.teacher])
            for tap in part.student_taps:
                tap.find(model, f'{part.where}, student')
            for tap in part.teacher_taps if part.uses_teacher else ():
                tap.find(teachers[part.teacher].model, f'{part.where}, teacher')
        labels = student_loss_weight > 0
        rehearsal = Rehearsal.run(model, cfg, family, teachers, parts, labels)
        prepare_parts(parts, rehearsal)
        if not labels:
            check_without_labels(parts)
        distillation = Distillation(parts, family, teachers, rehearsal, student_loss_weight)
    extend(model, distillation)
    model.starting_point = StartingPoint(student_checkpoint, inherit, model, teachers)
    return model


def extend(model: nn.Module, distillation: Distillation) -> None:
    """Makes a plain student a distilled one, in place."""
    model.__class__ = distilled_class(type(model))
    model.distillation = distillation
    model._register_state_dict_hook(_leave_out_distillation)
    model.register_load_state_dict_post_hook(_do_not_miss_distillation)


class Distilled:
    """What a distilled student does differently; mixed in before its own class.

    It has no constructor: a student is extended after it was built.
    """

    def loss(self, inputs, data_samples, *args, **kwargs) -> dict:
        """The student's losses, plus what terms and exits add.

        Args:
            inputs: ``[B, 3, H, W]``.
            data_samples: the batch's samples.
        """
        distillation = self.distillation
        if not (self.training and distillation.is_on):
            return super().loss(inputs, data_samples, *args, **kwargs)
        said = distillation.ask_teachers(inputs, data_samples)
        with distillation.listen(self) as heard:
            losses = {}
            if distillation.student_loss_weight:
                losses = super().loss(inputs, data_samples, *args, **kwargs)
            else:
                distillation.run_without_labels(self, inputs, data_samples, heard)
        losses = distillation.weigh(losses)
        losses.update(distillation.teach(self, inputs, data_samples, heard, said))
        return losses

    def judge_teacher(self, student_classes, name: str | None = None) -> None:
        """From here on ``predict`` gives the teacher's predictions, by the path that teaches.

        Args:
            student_classes: class names of the data that judges.
            name: which teacher, where several are named.

        Raises:
            ValueError: if there is no such teacher, or its classes cannot be matched.
        """
        teachers = self.distillation.teachers or {}
        if name not in teachers:
            known = [n for n in teachers if n is not None]
            raise ValueError(f'no teacher {name!r} to judge; there is {known or "none"}')
        if isinstance(teachers[name], (SelfTeacher, MeanTeacher)):
            raise ValueError(
                f'teacher {teachers[name].title!r} is the student itself; test its checkpoint'
            )
        if not hasattr(teachers[name].model, 'predict'):
            raise ValueError(
                f'teacher {teachers[name].title!r} is a bare backbone: it predicts nothing that '
                'could be judged'
            )
        teachers[name].start(student_classes)
        self.__dict__['predict'] = teachers[name].predict

    def init_weights(self) -> None:
        """The student's own initialisation, then its starting point."""
        super().init_weights()
        if self.starting_point is not None:
            self.starting_point.apply(self)

    def __reduce_ex__(self, protocol):
        # a starting point refers to teachers, which no copy takes along
        state = dict(self.__dict__, starting_point=None)
        return _rebuild, (type(self).__mro__[2],), state


@functools.cache
def distilled_class(student_class: type) -> type:
    """``DistilledRetinaNet`` for ``RetinaNet``."""
    name = f'Distilled{student_class.__name__}'
    return type(name, (Distilled, student_class), {'__doc__': student_class.__doc__})


def _rebuild(student_class: type) -> nn.Module:
    cls = distilled_class(student_class)
    return cls.__new__(cls)


def _leave_out_distillation(module, state_dict, prefix, local_metadata):
    for name in [n for n in state_dict if n.startswith(prefix + _CHILD)]:
        del state_dict[name]
    metadata = getattr(state_dict, '_metadata', {})
    for name in [n for n in metadata if f'{n}.'.startswith(prefix + _CHILD)]:
        del metadata[name]


def _do_not_miss_distillation(module, incompatible_keys):
    own = {_CHILD + name for name in module.distillation.state_dict()}
    missing = incompatible_keys.missing_keys
    missing[:] = [n for n in missing if n[n.find(_CHILD) :] not in own]


class StartingPoint:
    """Where the student's weights start, applied when the runner initialises them.

    Args:
        checkpoint: a file to load strictly, or ``None``.
        inherit: names of modules to copy from the teacher.
        model: the student.
        teachers: teachers by name; ``inherit`` takes the first.

    Raises:
        ValueError: if a named module is missing in either model or does not fit.
    """

    def __init__(self, checkpoint, inherit, model: nn.Module, teachers: dict) -> None:
        self.checkpoint = None if checkpoint is None else read_checkpoint(checkpoint)
        self.inherit = [inherit] if isinstance(inherit, str) else list(inherit or ())
        self.applied = self.checkpoint is None and not self.inherit
        others = [t.model for t in teachers.values() if type(t) is Teacher]
        if self.inherit and not others:
            raise ValueError(f'inherit={self.inherit}: there is no teacher to inherit from')
        self._teacher = others[0] if others else None
        if self.checkpoint is not None:
            load_strict(model, self.checkpoint, 'student_checkpoint')
        for name in self.inherit:
            self._check(name, model)

    def apply(self, model: nn.Module) -> None:
        """Fills the student."""
        if self.checkpoint is not None:
            load_strict(model, self.checkpoint, 'student_checkpoint')
        for name in self.inherit:
            state = self._teacher.get_submodule(name).state_dict()
            model.get_submodule(name).load_state_dict(state)
        self.applied = True

    def _check(self, name: str, model: nn.Module) -> None:
        states = []
        for who, source in (('student', model), ('teacher', self._teacher)):
            modules = dict(source.named_modules())
            if name not in modules:
                raise ValueError(f'inherit: {name!r} names no module of the {who}')
            states.append(modules[name].state_dict())
        ours, theirs = ({k: tuple(v.shape) for k, v in s.items()} for s in states)
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                raise ValueError(
                    f'inherit: {name!r} does not fit: {key} is {ours.get(key)} in the student, '
                    f'{theirs.get(key)} in the teacher; take it off the list'
                )


def _shared_seed() -> int:
    seed = torch.tensor([torch.initial_seed() % 2**31])
    if is_distributed():
        broadcast(seed)
    return int(seed)
