"""Teachers: built, filled strictly, frozen, fed with their own inputs, and only read."""

from dataclasses import fields, replace

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd.families import find_family
from mmkd.families.family import Predictions
from mmkd.registry import build_in_scope
from mmkd.terms.tap import Capture, Tap, flatten

from .checkpoint import checkpoint_classes, load_strict, read_checkpoint
from .classes import ClassMatch
from .compiled import compile_between
from .download import reason
from .inputs import InputConverter
from .lesson import Heard
from .model_source import resolve_model
from .runtime import Runtime, largest_difference

_OPTIONS = tuple(field.name for field in fields(Runtime))
_KEYS = ('config', 'checkpoint', 'overrides', 'classes', *_OPTIONS)
_SAME = 1e-3  # of the largest value: what folding may change


class Teacher:
    """A frozen model in eval mode, kept outside every module tree.

    Args:
        name: its name where several are given, else ``None``.
        model: the teacher.
        classes: its class names, ``'same'`` for the student's, or ``None`` if they are nowhere.
        preprocessor: the student's data preprocessor, whose images are shared; ``None``: they are
            the teacher's own already.
        origin: what the user called it.
        runtime: how it is run.
    """

    is_student = False

    def __init__(
        self, name, model: nn.Module, classes, preprocessor, origin: str, runtime: Runtime
    ) -> None:
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.family = find_family(model)
        self.classes = classes
        self.origin = origin
        self.runtime = runtime
        self.difference = 0.0  # to the plain model, see `rehearse`
        self.match: ClassMatch | None = None
        self.firings: dict[Tap, int] = {}
        self._changed: frozenset[str] = frozenset()  # taps whose tensors it changes in place
        self._convert = None
        if preprocessor is not None:
            self._convert = InputConverter(preprocessor, model.data_preprocessor, self.title)

    @property
    def title(self) -> str:
        """How errors and the summary call it."""
        return self.name or self.origin

    @classmethod
    def build(cls, name: str | None, cfg: dict, preprocessor) -> 'Teacher':
        """Builds a teacher from ``dict(config=, checkpoint=, overrides=None, classes=None)``.

        Further keys are those of :class:`mmkd.distillers.runtime.Runtime`. A model that has an
        attribute ``weights_from`` has brought its weights along and takes no ``checkpoint``.

        Raises:
            ValueError: one line for whatever is wrong with its config, file or weights.
        """
        cfg = dict(cfg)
        what = f'teacher {name!r}' if name else 'teacher'
        if 'config' not in cfg:
            raise ValueError(_missing(what, 'config'))
        if unknown := sorted(set(cfg) - set(_KEYS)):
            raise ValueError(f'{what}: unknown key {unknown[0]!r}; it has {", ".join(_KEYS)}')
        try:
            runtime = Runtime(**{key: cfg[key] for key in _OPTIONS if key in cfg})
        except ValueError as error:
            raise ValueError(f'{what}: {error}') from error
        source = resolve_model(cfg['config'], cfg.get('overrides'))
        model = build_in_scope(source.model, f'{what} ({source.name})')
        origin = getattr(model, 'weights_from', source.name)
        brings_weights = hasattr(model, 'weights_from')
        if not brings_weights and 'checkpoint' not in cfg:
            raise ValueError(_missing(what, 'checkpoint'))
        what = f'{what} ({origin})'
        classes = cfg.get('classes')
        path = cfg.get('checkpoint')
        if brings_weights:
            if path is not None:
                raise ValueError(f'{what}: its weights come with it; drop checkpoint={path!r}')
        elif path is None:
            print_log(f'{what} has random weights: checkpoint=None', 'current', level=30)
            if hasattr(model, 'init_weights'):
                model.init_weights()
        else:
            if path == 'published':
                path = source.published
                if path is None:
                    raise ValueError(
                        f"{what}: checkpoint='published', but its library lists no weights for "
                        'this config; give a file'
                    )
            checkpoint = read_checkpoint(path)
            load_strict(model, checkpoint, what)
            classes = classes or checkpoint_classes(checkpoint.meta)
        return cls(name, model, classes or source.classes, preprocessor, origin, runtime)

    def start(self, student_classes) -> None:
        """Matches classes by name.

        Raises:
            ValueError: if the teacher's are unknown, of another number, or have none in common.
        """
        known = self.family.num_classes(self.model)
        theirs = student_classes if self.classes == 'same' else self.classes
        if theirs and known and len(theirs) != known:
            raise ValueError(
                f'teacher {self.title!r}: it predicts {known} classes but {len(theirs)} names are '
                'given; give teacher.classes=(...) with a name for each'
            )
        self.match = ClassMatch.by_name(student_classes, self.classes, self.title)

    @torch.no_grad()
    def run(self, inputs: Tensor, data_samples: list, taps, predictions: bool) -> Heard:
        """Runs as deep as what is asked for.

        Args:
            inputs: ``[B, 3, H, W]`` as the student's preprocessor made them.
            data_samples: the batch's samples.
            taps: addresses to catch.
            predictions: whether final predictions are needed.
        """
        stop = None if predictions else sum(self.firings[tap] for tap in taps)
        capture = Capture(
            self.model, taps, f'teacher {self.title!r}', clone=self._changed, stop_after=stop
        )
        return self._forward(capture, self._own(inputs, data_samples), data_samples)

    def _own(self, inputs: Tensor, data_samples: list) -> Tensor:
        return inputs if self._convert is None else self._convert(inputs, data_samples)

    def _forward(self, capture: Capture, inputs: Tensor, data_samples: list) -> Heard:
        result = Predictions()
        with capture, self.runtime.context(inputs.device):
            result = self.family.forward(self.model, self.runtime.inputs(inputs), data_samples)
        return Heard(capture, result)

    @torch.no_grad()
    def rehearse(self, inputs: Tensor, data_samples: list, taps) -> Heard:
        """Runs to the end once and learns how often each tap fires; then takes its runtime on.

        Args:
            inputs: ``[B, 3, H, W]``.
            data_samples: the batch's samples.
            taps: addresses to catch.

        Raises:
            ValueError: if folding its BatchNorms changes what it says, or it cannot be compiled.
        """

        def hear(runtime: Runtime) -> Heard:
            chosen, self.runtime = self.runtime, runtime
            capture = Capture(self.model, taps, f'teacher {self.title!r}')
            try:
                return self._forward(capture, inputs, data_samples)
            finally:
                self.runtime = chosen

        self.model.to(inputs.device)
        heard = plain = hear(Runtime())
        if self.runtime.fold_bn:
            self.runtime.fold(self.model)
            difference = largest_difference(_said(hear(Runtime()), taps), _said(plain, taps))
            if difference > _SAME:
                raise ValueError(
                    f'teacher {self.title!r}: fold_bn changes what it says by {difference:.1%} (a '
                    'BatchNorm that does not follow its convolution, or a tap in between); drop it'
                )
        if self.runtime != Runtime():
            self.runtime.lay_out(self.model)
            heard = hear(replace(self.runtime, compile=False))
            if self.runtime.compile_options is not None:
                heard = self._compile(hear, taps)
            self.difference = largest_difference(_said(heard, taps), _said(plain, taps))
        # a compiled module need not tell that it wrote to its input
        self._changed = plain.capture.changed_in_place() | heard.capture.changed_in_place()
        self.firings = {tap: len(heard.capture.calls(tap)) for tap in taps}
        return heard

    def _compile(self, hear, taps) -> Heard:
        try:
            options = self.runtime.compile_options
            compile_between(self.model, [tap.path for tap in taps], options)
            return hear(self.runtime)
        except Exception as error:  # of any kind: the same pass has just run uncompiled
            cause = getattr(error, 'inner_exception', error)  # what a backend raised
            raise ValueError(
                f'teacher {self.title!r}: compile={self.runtime.compile} fails on this machine '
                f'({type(cause).__name__}: {reason(cause)}); drop it, or give other arguments'
            ) from error

    def move(self, fn) -> None:
        """Follows the student to another device or type."""
        self.model._apply(fn)

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: list, **kwargs) -> list:
        """Predicts in the student's classes from the student's inputs, to be judged."""
        images = self.runtime.inputs(self._own(inputs, data_samples))
        with self.runtime.context(images.device):
            samples = self.model.predict(images, data_samples, **kwargs)
        return self.family.rename_classes(samples, self.match)


def _said(heard: Heard, taps) -> list[Tensor]:
    """Everything a teacher gave, in a fixed order."""
    values = [heard.capture.calls(tap) for tap in sorted(taps, key=lambda tap: tap.address)]
    values += list(heard.predictions.outputs.values())
    return [x for x in flatten(values) if isinstance(x, Tensor)]


def _missing(what: str, key: str) -> str:
    return (
        f'{what}: {key}= is missing; write teacher=dict(config=..., checkpoint=...) '
        '(checkpoint=None for random weights)'
    )
