"""What can be read linearly from frozen features."""

import torch
from torch import Tensor

_NEVER = -1e4  # the logit of a class that no example has


class LinearProbe:
    """A linear classifier solved in closed form: linear discriminant analysis.

    Linear probes (Alain and Bengio, 2016) are trained by gradient descent as a rule; here the
    solution is that of Gaussian classes with one covariance, ``logit_k = mu_k' S^-1 x - mu_k' S^-1
    mu_k / 2 + log(n_k / n)``, so that there is no rate and no number of steps to choose. S is the
    mean covariance within classes, plus ``shrinkage`` times its mean variance on the diagonal. Only
    sums over examples are kept.

    Args:
        classes: how many.
        channels: of the features.
        shrinkage: see above.
    """

    def __init__(self, classes: int, channels: int, shrinkage: float = 1e-3) -> None:
        self.shrinkage = shrinkage
        self._counts = torch.zeros(classes, dtype=torch.float64)
        self._sums = torch.zeros(classes, channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, channels, dtype=torch.float64)

    def update(self, x: Tensor, label: Tensor) -> None:
        """Adds examples.

        Args:
            x: features ``[N, C]``.
            label: their classes ``[N]``; those below 0 are left out.
        """
        x, label = x[label >= 0].double(), label[label >= 0]
        chosen = torch.nn.functional.one_hot(label, len(self._counts)).double()
        self._counts += chosen.sum(0).cpu()
        self._sums += (chosen.T @ x).cpu()
        self._squares += (x.T @ x).cpu()

    def solve(self) -> tuple[Tensor, Tensor]:
        """Weights ``[K, C]`` and biases ``[K]``, fp32.

        Raises:
            ValueError: without examples.
        """
        total = self._counts.sum()
        if not total:
            raise ValueError('a linear probe needs labelled cells, and the images have none')
        means = self._sums / self._counts.clamp(min=1)[:, None]
        within = (self._squares - (means.T * self._counts) @ means) / total
        ridge = self.shrinkage * within.diagonal().mean().clamp(min=1e-12)
        within = within + ridge * torch.eye(len(within), dtype=within.dtype)
        weight = torch.linalg.solve(within, means.T).T
        bias = (self._counts.clamp(min=1) / total).log() - (weight * means).sum(1) / 2
        bias[self._counts == 0] = _NEVER
        return weight.float(), bias.float()
