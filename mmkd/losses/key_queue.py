import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .functional.pixels import unit


class KeyQueue(nn.Module):
    """The latest unit vectors of each class, first in, first out.

    It is saved in ``state_dict()`` and moves with its module, but is neither a parameter nor a
    buffer: a deep copy (an average of weights, a dry run) has none, and averaging pairs parameters
    and buffers by position. All ranks hold the same.

    Args:
        num_classes: K.
        size: How many vectors of a class.
        channels: C. All start as random directions, as published.
    """

    def __init__(self, num_classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.contents: dict[str, Tensor] = dict(
            keys=unit(torch.randn(num_classes, size, channels)),
            next_slot=torch.zeros(num_classes, dtype=torch.long),
        )

    @property
    def keys(self) -> Tensor:
        """[K, size, C]."""
        return self.contents['keys']

    @torch.no_grad()
    def push(self, vectors: Tensor, classes: Tensor) -> None:
        """Takes vectors [M, C] of classes [M] in; the oldest of each class go."""
        keys, next_slot = self.contents['keys'], self.contents['next_slot']
        members = F.one_hot(classes, len(keys))
        rank = (members.cumsum(0) * members).sum(1) - 1
        counts = members.sum(0)
        size = keys.shape[1]
        fits = rank >= counts[classes] - size
        slots = (next_slot[classes] + rank) % size
        keys[classes[fits], slots[fits]] = vectors[fits].to(keys.dtype)
        next_slot.copy_((next_slot + counts) % size)

    def draw(self, count: int) -> Tensor:
        """``count`` random vectors of each class, [K * count, C]; all where there are fewer."""
        size = self.keys.shape[1]
        if count >= size:
            return self.keys.flatten(0, 1)
        slots = torch.randperm(size, device=self.keys.device)[:count]
        return self.keys[:, slots].flatten(0, 1)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.contents = {name: fn(x) for name, x in self.contents.items()}
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, x in self.contents.items():
            destination[prefix + name] = x

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, _, errors):
        for name, x in self.contents.items():
            saved = state_dict.get(prefix + name)
            if saved is None:
                missing.append(prefix + name)
            elif saved.shape != x.shape:
                errors.append(f'{prefix}{name}: {tuple(saved.shape)} instead of {tuple(x.shape)}')
            else:
                x.copy_(saved)

    def __getstate__(self) -> dict:
        return dict(self.__dict__, contents={})
