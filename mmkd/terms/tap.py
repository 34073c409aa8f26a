"""Taps: the address of a tensor inside a model, and how its value is caught."""

import contextlib
import copy
import difflib
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_ADDRESS = re.compile(r'(?P<path>\w+(?:\.\w+)*)(?P<input>:in)?(?P<picks>(?:\[[^\[\]]*\]){0,2})')
_PICK = re.compile(r'\[(?:(?P<index>-?\d+)|(?P<start>-?\d+)?:(?P<end>-?\d+)?)\]')


class StopForwardError(Exception):
    """Ends a teacher's forward pass once everything that was asked of it has been caught."""


@dataclass(frozen=True)
class Tap:
    """One address: ``path``, ``path:in``, each with ``[i]``, ``[i:j]`` or ``[i][j]``.

    ``path`` is a module's name as ``named_modules()`` gives it; ``:in`` is the module's first input
    instead of its output. A bracket picks from what the module returned if that is a tuple or
    list, else from its calls in order; of two brackets on a module that returns tuples and is
    called several times, the first picks the call.
    """

    address: str
    path: str = field(compare=False)
    is_input: bool = field(compare=False)
    picks: tuple = field(compare=False)

    @classmethod
    def parse(cls, address: str) -> 'Tap':
        """Reads an address.

        Raises:
            ValueError: if it is not of the grammar above.
        """
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        picks = []
        for text in re.findall(r'\[[^\[\]]*\]', match['picks']) if match else ():
            pick = _PICK.fullmatch(text)
            if pick is None:
                match = None
                break
            index, start, end = (g if g is None else int(g) for g in pick.groups())
            picks.append(slice(start, end) if index is None else index)
        if match is None:
            raise ValueError(
                f'tap {address!r} is not an address; write path, path[i], path[i:j], path[i][j] '
                "or path:in, such as 'backbone[1:]' or 'neck.fpn_convs.0:in'"
            )
        return cls(address, match['path'], match['input'] is not None, tuple(picks))

    def find(self, model: nn.Module, where: str) -> nn.Module:
        """The module at this address.

        Args:
            model: the student or a teacher.
            where: how to call it in an error, such as ``term 'kd', student``.

        Raises:
            ValueError: if there is none; the nearest names are offered.
        """
        with contextlib.suppress(AttributeError):
            return model.get_submodule(self.path)
        modules = dict(model.named_modules())
        near = difflib.get_close_matches(self.path, [n for n in modules if n], n=3, cutoff=0.5)
        known = near or [name for name, _ in model.named_children()]
        hint = 'nearest names' if near else 'its parts'
        raise ValueError(
            f'{where}: tap {self.address!r} names no module of {_class_name(model)}; '
            f'{hint}: {", ".join(known)}'
        )

    def pick(self, calls: list, module: nn.Module, where: str) -> list[Tensor]:
        """What this address means among what a module gave, call by call.

        Raises:
            ValueError: if it never fired, a bracket points outside, or no tensor is there.
        """
        if not calls:
            raise ValueError(
                f'{where}: tap {self.address!r} never fires; {_why_silent(module, self)}'
            )
        value = calls
        picks = self.picks
        returns_many = isinstance(calls[0], (tuple, list))
        if len(calls) == 1 and (returns_many or not picks):
            value = calls[0]
        elif returns_many and len(picks) == 1:
            raise ValueError(
                f'{where}: tap {self.address!r} returns {len(calls[0])} tensors and is called '
                f'{len(calls)} times; write [call][item]'
            )
        for pick in picks:
            size = len(value) if isinstance(value, (tuple, list)) else None
            try:
                value = value[pick] if size is not None else None
            except IndexError:
                value = None
            if value is None or (isinstance(value, (tuple, list)) and not len(value)):
                found = f'{size} values' if size is not None else 'a single tensor'
                raise ValueError(
                    f'{where}: tap {self.address!r} points outside what is there: {found}'
                )
        tensors = list(flatten(value))
        if not tensors or not all(isinstance(x, Tensor) for x in tensors):
            kinds = sorted({type(x).__name__ for x in tensors}) or ['nothing']
            raise ValueError(
                f'{where}: tap {self.address!r} gives {", ".join(kinds)} instead of tensors; '
                'tap one of the modules inside it'
            )
        return tensors


class Capture:
    """Catches what a model's taps give while the ``with`` block runs.

    Hooks are put on when the block is entered and taken off when it is left, so that nothing that
    runs later (a backward pass that recomputes a checkpointed block, say) can enter again.

    Args:
        model: the model to listen to.
        taps: the addresses to catch.
        where: how to call the model in an error.
        clone: addresses whose tensors the model changes in place afterwards.
        stop_after: number of firings after which the forward pass is ended by
            :class:`StopForwardError`; ``None`` lets it run.
    """

    def __init__(self, model, taps, where, clone=frozenset(), stop_after=None) -> None:
        self.where = where
        self.firings = 0
        self._stop_after = stop_after
        self._clone = clone
        self._modules = {tap: tap.find(model, where) for tap in taps}
        self._calls = {tap: [] for tap in taps}
        self._versions = []
        self._handles = []

    def __enter__(self) -> 'Capture':
        for tap, module in self._modules.items():
            if tap.is_input:
                handle = module.register_forward_pre_hook(self._on_input(tap), with_kwargs=True)
            else:
                handle = module.register_forward_hook(self._on_output(tap))
            self._handles.append(handle)
        return self

    def __exit__(self, kind, error, trace) -> bool:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        return kind is StopForwardError

    def _on_input(self, tap):
        def hook(module, args, kwargs):
            name = None if args else next(iter(kwargs))
            value = self._catch(tap, args[0] if args else kwargs[name])
            if value is None:
                return None
            return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, name: value})

        return hook

    def _on_output(self, tap):
        def hook(module, args, output):
            return self._catch(tap, output)

        return hook

    def _catch(self, tap: Tap, value):
        """Keeps a value; gives the copy that a model which writes to it has to go on with."""
        self._calls[tap].append(value)
        self._versions += [(tap, x, x._version) for x in flatten(value) if isinstance(x, Tensor)]
        self.firings += 1
        if self.firings == self._stop_after:
            raise StopForwardError
        return _map(torch.clone, value) if tap.address in self._clone else None

    def read(self, tap: Tap, where: str | None = None) -> list[Tensor]:
        """The tensors at an address, in order."""
        return tap.pick(self._calls[tap], self._modules[tap], where or self.where)

    def detached(self) -> 'Capture':
        """The same tensors, cut from the graph."""
        twin = copy.copy(self)
        twin._calls = {tap: _map(Tensor.detach, calls) for tap, calls in self._calls.items()}
        return twin

    def calls(self, tap: Tap) -> list:
        """What a tapped module gave, call by call."""
        return self._calls[tap]

    def changed_in_place(self) -> frozenset[str]:
        """Addresses whose tensors were written to after they were caught."""
        return frozenset(tap.address for tap, x, version in self._versions if x._version != version)


def flatten(value):
    """The items of nested tuples and lists, in order."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from flatten(item)
    else:
        yield value


def _map(function, value):
    if isinstance(value, (tuple, list)):
        return type(value)(_map(function, item) for item in value)
    return function(value) if isinstance(value, Tensor) else value


def _class_name(model: nn.Module) -> str:
    return type(model).__name__


def _why_silent(module: nn.Module, tap: Tap) -> str:
    members = [name for name, _ in module.named_children()]
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)) and members:
        kind = _class_name(module)
        return f'a {kind} is not called itself, tap a member such as {tap.path}.{members[0]!s}'
    return (
        f'this {_class_name(module)} is not called as a module in training; tap a module inside '
        'it, or use LogitKD for final predictions'
    )
