"""Scores that are gathered batch by batch without keeping decisions."""

import torch
from torch import Tensor


class MeanIoU:
    """Mean intersection over union as mmseg's ``IoUMetric`` has it.

    Args:
        classes: how many.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._table = torch.zeros(classes, classes, dtype=torch.long)

    def update(self, predicted: Tensor, label: Tensor) -> None:
        """Adds pixels ``[N]``, all of which count."""
        cells = torch.bincount(label * self.classes + predicted, minlength=self.classes**2)
        self._table += cells.view(self.classes, self.classes).cpu()

    def value(self) -> float | None:
        """In percent, over the classes that occur in labels or predictions."""
        table = self._table.double()
        union = table.sum(0) + table.sum(1) - table.diagonal()
        iou = (table.diagonal() / union)[union > 0]
        return float(iou.mean() * 100) if len(iou) else None


class AveragePrecision:
    """Mean over classes of the area under precision and recall, of ranked cells.

    Scores are counted in equal bins of their log-odds; those of one bin count as ties.

    Args:
        classes: how many.
        bins: from log-odds -16 to 16.
    """

    def __init__(self, classes: int, bins: int = 4096) -> None:
        self.bins = bins
        self._counts = torch.zeros(2, classes, bins, dtype=torch.long)

    def update(self, log_odds: Tensor, label: Tensor) -> None:
        """Adds cells.

        Args:
            log_odds: of each class ``[N, K]``.
            label: the class of each ``[N]``; any other number is none of them.
        """
        bins = ((log_odds + 16) * (self.bins / 32)).long().clamp(0, self.bins - 1)
        for index in range(bins.shape[1]):
            for found, counts in zip((label == index, label != index), self._counts):
                counts[index] += torch.bincount(bins[found, index], minlength=self.bins).cpu()

    def value(self) -> float | None:
        """In percent, over the classes that occur."""
        right, wrong = self._counts.flip(-1).cumsum(-1).double()
        there = right[:, -1] > 0
        precision = right / (right + wrong).clamp(min=1)
        recall = right / right[:, -1:].clamp(min=1)
        step = torch.diff(recall, dim=1, prepend=torch.zeros_like(recall[:, :1]))
        values = (precision * step).sum(1)[there]
        return float(values.mean() * 100) if len(values) else None
