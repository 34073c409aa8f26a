"""Each term's and exit's share of the gradient at its tap, read off the ordinary backward pass."""

from collections import defaultdict

import torch
from torch import Tensor


class GradientShares:
    """Hands out aliases of tapped tensors and compares their gradients with the whole.

    A share is the joint norm of an owner's own gradient over the tensors of its tap, divided by
    that of the tensors' whole gradient; the rest is what is not its own. Loss scaling and
    gradient accumulation cancel.

    Attributes:
        cosines: by owner, of the angle between its own gradient and the rest, of the last step
            that was measured with ``directions``.
    """

    def __init__(self) -> None:
        self.measuring = False
        self.cosines: dict[str, float] = {}
        self._directions = False
        self._own = defaultdict(dict)
        self._watched = set()
        self._squares = defaultdict(lambda: [0.0, 0.0, 0.0])
        self._products = defaultdict(float)

    def stay_uncompiled(self) -> None:
        """Keeps out of a step under ``torch.compile``, which drops some hooks on tensors."""
        self.alias = torch.compiler.disable(self.alias)

    def start(self, measuring: bool, directions: bool = False) -> None:
        """Forgets the last step.

        Args:
            measuring: whether this one counts.
            directions: whether its cosines are measured too.
        """
        self.measuring = measuring
        self.cosines = {}
        self._directions = directions
        self._own.clear()
        self._watched.clear()
        self._squares.clear()
        self._products.clear()

    def alias(self, owner: str, x: Tensor) -> Tensor:
        """A view of ``x`` whose gradient is the owner's alone."""
        view = x.view_as(x)
        if self.measuring and view.requires_grad:
            key = id(x)
            if key not in self._watched:
                self._watched.add(key)
                x.register_hook(lambda whole: self._compare(key, whole))
            view.register_hook(lambda own: self._add(key, owner, own))
        return view

    def _add(self, key: int, owner: str, own: Tensor) -> None:
        own = own.detach().float()
        self._own[key][owner] = self._own[key].get(owner, 0.0) + own

    def _compare(self, key: int, whole: Tensor) -> None:
        self._watched.discard(key)  # the tensor goes, and another may get its id
        whole = whole.detach().float()
        for owner, own in self._own.pop(key, {}).items():
            sums = self._squares[owner]
            rest = whole - own
            for index, part in enumerate((own, rest, whole)):
                sums[index] = sums[index] + part.square().sum()
            if self._directions:
                self._products[owner] = self._products[owner] + (own * rest).sum()

    def read(self) -> dict[str, tuple[float, float]]:
        """Share and rest by owner, without those whose gradient is not finite or all 0."""
        result, cosines = {}, {}
        for owner, sums in self._squares.items():
            own, rest, whole = torch.stack([torch.as_tensor(x) for x in sums]).sqrt().tolist()
            if whole > 0 and all(x < float('inf') for x in (own, rest, whole)):
                result[owner] = (own / whole, rest / whole)
                if self._directions and own > 0 and rest > 0:
                    cosines[owner] = float(self._products[owner]) / (own * rest)
        self.start(False)
        self.cosines = cosines
        return result
