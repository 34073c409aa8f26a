"""Which priors a dense head gave to which labels: heard once, told to exits."""

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmdet.models.dense_heads import (
    FCOSHead,
    PAAHead,
    RepPointsHead,
    RetinaHead,
    TOODHead,
    VFNetHead,
    YOLOXHead,
)
from torch import Tensor, nn

from mmkd.losses.functional import reduce_mean

from .dense_heads import stock_type
from .family import replaced

# Methods that assign, where they are others than `get_targets`.
_METHODS = {YOLOXHead: ('_get_targets_single',), PAAHead: ('get_targets', 'paa_reassign')}
# What a head's loss reads besides, and training changes on the main head alone.
_STATE = {TOODHead: ('epoch',), YOLOXHead: ('use_l1',)}
_LABELS_FIRST = (RetinaHead, FCOSHead, VFNetHead, RepPointsHead)  # in others anchors come before


@dataclass
class Assignment:
    """What a head's assigning methods gave.

    Attributes:
        results: by method, call by call.
        state: what the loss reads of its head besides, by name.
    """

    results: dict[str, list] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


@contextmanager
def hear_assignment(head: nn.Module):
    """Yields an :class:`Assignment`, filled while the head's own loss runs inside."""
    known = stock_type(head)
    heard = Assignment({name: [] for name in _METHODS.get(known, ('get_targets',))})

    def listener(name: str):
        stock = getattr(head, name)

        def method(*args, **kwargs):
            heard.results[name].append(stock(*args, **kwargs))
            return heard.results[name][-1]

        return method

    with replaced(head, **{name: listener(name) for name in heard.results}):
        yield heard
    state = [name for name in _STATE.get(known, ()) if hasattr(head, name)]  # not before its loss
    heard.state = {name: getattr(head, name) for name in state}


@contextmanager
def told(head: nn.Module, assignment: Assignment, device):
    """Another head of the same type assigns nothing itself while the block runs."""

    def teller(name: str):
        results = assignment.results[name]
        if name == 'get_targets':
            results = [_reduced(x, device) for x in results]
        rest = iter(results)
        return lambda *args, **kwargs: next(rest)

    for name, value in assignment.state.items():
        setattr(head, name, value)
    with replaced(head, **{name: teller(name) for name in assignment.results}):
        yield


def num_positives(head: nn.Module, assignment: Assignment) -> float | Tensor:
    """How many priors have a label, as the head itself counts them on this rank."""
    known = stock_type(head)
    if known in _METHODS:
        return float(sum(x[-1] for x in assignment.results[_METHODS[known][-1]]))
    count = assignment.results['get_targets'][-1][-1]
    if isinstance(count, (int, float)):
        return float(count)
    return is_positive(head, assignment).sum()


def is_positive(head: nn.Module, assignment: Assignment) -> Tensor:
    """1 where a prior has a label ``[M]``, in the order of flattened maps."""
    labels = _flat(assignment, 0 if stock_type(head) in _LABELS_FIRST else 1)
    return ((labels >= 0) & (labels < head.num_classes)).float()


def label_weights(head: nn.Module, assignment: Assignment) -> Tensor | None:
    """The weight of each anchor's label ``[M]``; ``None`` for FCOS, which ignores no point."""
    known = stock_type(head)
    if known is FCOSHead:
        return None
    return _flat(assignment, 1 if known in _LABELS_FIRST else 2)


def _flat(assignment: Assignment, index: int) -> Tensor:
    levels = assignment.results['get_targets'][-1][index]
    return torch.cat([x.reshape(-1) for x in levels])


def _reduced(result, device):
    """Targets with their divisor averaged over ranks, where they have one (RetinaNet's is not)."""
    if not isinstance(result[-1], (int, float)):
        return result
    count = torch.tensor(float(result[-1]), device=device)
    return (*result[:-1], reduce_mean(count).item())
