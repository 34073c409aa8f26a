"""A weight that holds a term's share of the gradient."""

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from mmkd.registry import MODELS

_LARGEST_STEP = 2.0  # of the weight


@MODELS.register_module()
class GradientShare(nn.Module):
    """Sets a term's or exit's weight so that it makes up a fixed share of the gradient at its tap.

    The share is the one that the log shows: norm of the term's own gradient over that of the whole
    gradient, joined over the tap's tensors. Each measurement multiplies the weight by ``(share /
    measured) ** gain``, at most by 2 and at least by 1/2. Nothing is changed while the term's
    schedule is not at its full height. With it, methods can be compared without one losing by its
    weight alone.

    Args:
        share: what to hold, between 0 and 1.
        interval: iterations between two measurements.
        gain: how fast, from 0 (never) to 1 (all at once).
        start: the weight before the first measurement.

    Raises:
        ValueError: on a number outside these.
    """

    kind = 'weight'

    def __init__(
        self, share: float = 0.1, interval: int = 10, gain: float = 0.3, start: float = 1.0
    ) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ValueError(f'GradientShare: share={share} must lie between 0 and 1')
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(f'GradientShare: interval={interval!r} must be a number of iterations')
        if not 0 <= gain <= 1:
            raise ValueError(f'GradientShare: gain={gain} must lie between 0 and 1')
        if not 0 < start < float('inf'):
            raise ValueError(f'GradientShare: start={start} must be a positive finite number')
        self.share = share
        self.interval = interval
        self.gain = gain
        self.register_buffer('value', torch.tensor(float(start)))

    def forward(self) -> Tensor:
        """The weight, a scalar."""
        return self.value

    def is_due(self, iteration: int) -> bool:
        """Whether the share is to be measured at an iteration."""
        return (iteration + 1) % self.interval == 0

    def update(self, measured: float | None) -> None:
        """Moves the weight; all ranks call it together.

        Args:
            measured: the share on this rank, or ``None`` where there was none to measure.
        """
        sums = self.value.new_tensor([measured, 1.0] if measured else [0.0, 0.0])
        all_reduce(sums)
        if sums[0] <= 0:
            return
        ratio = (self.share * sums[1] / sums[0]) ** self.gain
        self.value *= ratio.clamp(1 / _LARGEST_STEP, _LARGEST_STEP)

    def __str__(self) -> str:
        return f'for {self.share:.0%} of the gradient'
