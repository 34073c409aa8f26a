"""``torch.compile`` for a teacher: what lies between its taps, so that hooks stay outside."""

import inspect
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

_ARGUMENTS = tuple(name for name in inspect.signature(torch.compile).parameters if name != 'model')
_CUDA_GRAPHS = ('reduce-overhead', 'max-autotune', 'cudagraphs')  # two modes and a backend


def read_options(value: bool | dict | None) -> dict | None:
    """Arguments of ``torch.compile``; ``None``: nothing is compiled.

    Args:
        value: ``True``, or the arguments by name, as for mmengine's ``compile``.

    Raises:
        ValueError: on anything else, an unknown argument, or CUDA graphs.
    """
    if value is None or value is False:
        return None
    if value is True:
        return {}
    if not isinstance(value, dict):
        raise ValueError(
            f"compile={value!r} must be True or a dict of torch.compile's arguments, such as "
            'compile=dict(dynamic=False)'
        )
    options = {name: item for name, item in value.items() if name != '_scope_'}
    if unknown := sorted(set(options) - set(_ARGUMENTS)):
        raise ValueError(
            f'compile: torch.compile has no argument {unknown[0]!r}; it has {", ".join(_ARGUMENTS)}'
        )
    graphs = [key for key in ('mode', 'backend') if options.get(key) in _CUDA_GRAPHS]
    if graphs:
        raise ValueError(
            f'compile: {graphs[0]}={options[graphs[0]]!r} runs CUDA graphs, whose next call '
            "overwrites what terms still read; use mode='max-autotune-no-cudagraphs' or drop it"
        )
    return options


def compile_between(model: nn.Module, tapped: Iterable[str], options: dict) -> None:
    """Compiles the largest modules that no tap lies inside of, each by its ``forward``, in place.

    A compiled graph keeps the hooks that it was traced with, while what is listened to changes
    from step to step, and a hook may end the forward pass. Around a compiled ``forward`` hooks are
    ordinary Python: they come, go and stop as before.

    Args:
        model: a frozen model in eval mode.
        tapped: names of all modules that are ever listened to.
        options: arguments of ``torch.compile``.
    """
    for name, module in _untapped(model, tuple(tapped)):
        module.forward = torch.compile(_with_code_of_its_own(name, module.forward), **options)


def _untapped(module: nn.Module, tapped: tuple[str, ...], prefix: str = '') -> Iterator:
    for name, child in module.named_children():
        path = f'{prefix}{name}'
        inside = any(tap.startswith(f'{path}.') for tap in tapped)
        if inside or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _untapped(child, tapped, f'{path}.')
        elif _layers(child) > 1:  # a single one gives nothing to fuse
            yield path, child


def _layers(module: nn.Module) -> int:
    return sum(bool(part._parameters) for part in module.modules())


def _with_code_of_its_own(name: str, forward: Callable) -> Callable:
    """Graphs are counted by code object: the stages of one class would use up a common limit."""

    def run(*args, **kwargs):
        return forward(*args, **kwargs)

    run.__code__ = run.__code__.replace(co_name=f'teacher_{name.replace(".", "_")}')
    return run
