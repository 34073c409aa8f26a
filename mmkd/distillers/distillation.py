"""The one extra child of a distilled student."""

from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from mmkd.families.family import Predictions
from mmkd.registry import build
from mmkd.terms.tap import Capture
from mmkd.terms.term import Term

from .lesson import Heard, Lesson
from .rehearsal import Rehearsal, student_taps
from .shares import GradientShares
from .teachers import OWN

_HOOK = "default_hooks = dict(distill=dict(type='mmkd.DistillHook'))"


class Distillation(nn.Module):
    """Terms and exits as modules; teachers behind a plain reference that copies do not take along.

    Args:
        parts: terms and exits.
        family: the student's family.
        teachers: teachers by name.
        rehearsal: the dry run.
        student_loss_weight: factor of the student's own losses; 0: they are not computed.
    """

    def __init__(
        self, parts: list[Term], family, teachers: dict, rehearsal: Rehearsal,
        student_loss_weight: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        # Indices as names: parameter-wise settings match substrings, and a term called `backbone`
        # must not be taken for the backbone.
        self.parts = nn.ModuleList(parts)
        self.family = family
        self.teachers = teachers
        self.shares = GradientShares()
        self.iteration = 0
        self.started = False
        self.student_loss_weight = student_loss_weight
        self._clone = rehearsal.changed
        self._firings = rehearsal.firings
        for part in parts:
            if part.is_off:
                part.requires_grad_(False)

    def start(self, student_classes) -> None:
        """Matches classes by name with every teacher whose final predictions are compared.

        Raises:
            ValueError: if they cannot be matched.
        """
        asked = {part.teacher for part in self.parts if part.uses_logits and not part.is_off}
        for name in asked:
            self.teachers[name].start(student_classes)
        self.started = True

    def active(self) -> list[Term]:
        """Terms and exits that teach at this iteration."""
        return [p for p in self.parts if not p.is_off and p.schedule(self.iteration) > 0]

    @property
    def is_on(self) -> bool:
        """Whether the student's loss gets anything added; never in a copy, which has no teacher."""
        if self.teachers is None:
            return False
        return self.student_loss_weight != 1 or any(not part.is_off for part in self.parts)

    @contextmanager
    def listen(self, student: nn.Module):
        """Catches taps and predictions while the student's own ``loss()`` runs inside."""
        if not self.started:
            raise ValueError(f'mmkd: the DistillHook is missing; add {_HOOK}')
        active = self.active()
        taps = {tap for part in active for tap in student_taps(part, self.teachers)}
        stop = None
        if not self.student_loss_weight and not any(part.uses_logits for part in active):
            stop = sum(self._firings[tap] for tap in taps)
        capture = Capture(student, taps, 'student', clone=self._clone, stop_after=stop)
        heads = {}
        with ExitStack() as stack:
            stack.enter_context(capture)
            predictions = stack.enter_context(self.family.listen(student))
            for path in {getattr(part, 'own_head', None) for part in active} - {None}:
                heads[path] = Predictions()
                head = student.get_submodule(path)
                stack.enter_context(self.family.listen_to_head(head, heads[path]))
            yield Heard(capture, predictions), heads

    def needs(self) -> dict[str | None, tuple[set, bool]]:
        """What this iteration asks of each teacher: its taps, and whether its predictions."""
        needs = {}
        for part in self.active():
            if part.uses_teacher and not self.teachers[part.teacher].is_student:
                taps, predictions = needs.get(part.teacher, (set(), False))
                taps = taps | set(part.teacher_taps)
                needs[part.teacher] = (taps, predictions or part.uses_predictions)
        return needs

    def ask_teachers(self, inputs: Tensor, samples: list) -> dict:
        """What each teacher says that this iteration asks, only as deep as that needs.

        Before the student runs: then what a teacher needs while it runs is free again, and does
        not come on top of what the student keeps for its backward pass.
        """
        return {
            name: self.teachers[name].run(inputs, samples, *needs)
            for name, needs in self.needs().items()
        }

    def run_without_labels(self, student: nn.Module, inputs: Tensor, samples: list, heard) -> None:
        """The student as a teacher is run: no losses, and only as deep as this step needs."""
        predictions = self.family.forward(student, inputs, samples)
        heard[0].predictions.outputs = predictions.outputs

    def weigh(self, losses: dict) -> dict:
        """The student's own losses by their factor; statistics beside them stay as they are."""
        if self.student_loss_weight == 1:
            return losses
        return {
            name: _scaled(value, self.student_loss_weight) if 'loss' in name else value
            for name, value in losses.items()
        }

    def teach(
        self, student: nn.Module, inputs: Tensor, samples: list, heard, said: dict
    ) -> dict[str, Tensor]:
        """What terms and exits add to the student's losses, by log name."""
        own, heads = heard
        for name, teacher in self.teachers.items():
            if teacher.is_student:
                said = {**said, name: own.detached()}
        lesson = Lesson(
            student, self.family, inputs, samples, own, heads, self.teachers, said, self.shares
        )
        losses = {}
        for part in self.parts:
            if not part.is_off:
                for name, value in part.teach(lesson, self.iteration).items():
                    losses[f'{part.name}.{name}'] = value
        return losses

    def named_parts(self) -> dict[str, Term]:
        """Terms and exits by the user's names, ``terms.kd`` or ``exits.neck``."""
        return {f'{part.kind}s.{part.name}': part for part in self.parts}

    def _apply(self, fn, recurse=True):
        for teacher in (self.teachers or {}).values():
            teacher.move(fn)
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict:
        return dict(self.__dict__, teachers=None, shares=None)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.shares = GradientShares()


def build_parts(
    terms: dict | None, exits: dict | None, teachers: dict, student: nn.Module
) -> list[Term]:
    """Builds terms and exits from their configs.

    Teachers made of the student are added to ``teachers`` where a term or exit names them.

    Raises:
        ValueError: on a name, type or argument that is wrong.
    """
    parts = []
    for kind, configs in (('term', terms), ('exit', exits)):
        if not isinstance(configs, dict | None):
            raise ValueError(
                f'{kind}s must be a dict by name, not a {type(configs).__name__}; write '
                f'{kind}s=dict(name=dict(type=...))'
            )
        for name, cfg in (configs or {}).items():
            if name == '_scope_' or cfg is None:
                continue
            where = f'{kind} {name!r}'
            if 'loss' in name or '.' in name:
                raise ValueError(f"{where}: a name may contain neither 'loss' nor '.'; rename it")
            part = build(cfg, where, kind)
            if any(part.name == name for part in parts):
                raise ValueError(f'{where}: the name is taken by a term; rename one of the two')
            part.name = name
            if part.uses_teacher and part.teacher not in teachers:
                if part.teacher not in OWN:
                    raise ValueError(_no_teacher(part, teachers))
                teachers[part.teacher] = OWN[part.teacher](student)
            if not part.uses_teacher:
                part.teacher = None
            parts.append(part)
    return parts


def prepare_parts(parts: list[Term], rehearsal: Rehearsal) -> None:
    """Builds what depends on shapes, and refuses names that would replace the student's losses.

    Raises:
        ValueError: if a term or exit does not fit this pair of models.
    """
    for part in parts:
        clash = [n for n in rehearsal.loss_names if n.startswith(f'{part.name}.')]
        if clash:
            raise ValueError(
                f'{part.where}: the student logs {clash[0]!r} itself; give it another name'
            )
        part.prepare(rehearsal)


def check_without_labels(parts: list[Term]) -> None:
    """Refuses what cannot train a student whose labels are not read.

    Raises:
        ValueError: if an exit wants them, or nothing teaches all the time.
    """
    for part in parts:
        needs = getattr(getattr(part, 'criterion', None), 'needs_labels', False)
        if needs or getattr(part, 'gt', 0) or getattr(part, 'own_head', None):
            raise ValueError(
                f'{part.where}: it needs the labels, which student_loss_weight=0 does not read; '
                "write gt=0, a tap on a stage, no avg_factor='num_pos', no losses on sampled RoIs, "
                'LogitKD instead of CrossKD, or a small student_loss_weight'
            )
    always = [p for p in parts if not p.is_off and not p.schedule.begin and p.schedule.end is None]
    if not always:
        raise ValueError(
            'student_loss_weight=0: nothing would train the student all the time; add a term '
            'whose schedule has neither begin nor end'
        )


def _scaled(value, factor: float):
    return [x * factor for x in value] if isinstance(value, (list, tuple)) else value * factor


def _no_teacher(part: Term, teachers: dict) -> str:
    if not teachers:
        fix = 'give teacher=dict(...)' + (
            f', or {part.without_teacher}' if part.without_teacher else ''
        )
        return f'{part.where}: it listens to a teacher but there is none; {fix}'
    names = [name for name in teachers if name is not None]
    if not names:
        return f'{part.where}: teacher={part.teacher!r}, but the only teacher has no name; drop it'
    return f'{part.where}: teacher={part.teacher!r} is none of {", ".join(names)}; name one'
