"""Whether a model is as sure as it is right."""

import torch
from torch import Tensor


class Calibration:
    """Expected calibration error (Guo et al., ICML 2017) over equal bins of confidence.

    Args:
        bins: how many; published: 15.
    """

    def __init__(self, bins: int = 15) -> None:
        self.bins = bins
        self._sums = torch.zeros(3, bins, dtype=torch.float64)

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Adds decisions.

        Args:
            confidence: ``[N]`` in 0..1.
            correct: bool ``[N]``.
        """
        bins = bin_of(confidence, self.bins)
        for total, value in zip(self._sums, (torch.ones_like(confidence), confidence, correct)):
            total += torch.bincount(bins, value.double(), self.bins).cpu()

    def ece(self) -> float | None:
        """Mean over decisions of \\|accuracy - confidence\\| of their bin; ``None`` without any."""
        count, confidence, correct = self._sums
        if not count.sum():
            return None
        return float((correct - confidence).abs().sum() / count.sum())

    def rows(self) -> list[dict]:
        """Count, mean confidence and accuracy of each bin that is not empty."""
        return [
            dict(bin=i, count=int(n), confidence=float(c / n), accuracy=float(a / n))
            for i, (n, c, a) in enumerate(self._sums.T.tolist())
            if n
        ]


def bin_of(confidence: Tensor, bins: int) -> Tensor:
    """The bin ``(i / bins, (i + 1) / bins]`` of each value ``[N]``; 0 falls into the first."""
    return ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
