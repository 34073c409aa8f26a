"""How alike two representations are, whatever their bases."""

from torch import Tensor


class LinearCKA:
    """Unbiased linear centred kernel alignment (Kornblith et al., ICML 2019), in one pass.

    ``HSIC(K, L) / sqrt(HSIC(K, K) * HSIC(L, L))`` with the unbiased estimator of HSIC (Song et al.,
    JMLR 2012), of all examples together: as kernels are linear, sums over channels are enough, and
    no kernel of examples is kept. 1 for equal representations, and unchanged by rotations,
    reflections, shifts and one factor for all channels. Unlike the plain estimate it does not grow
    with the number of channels.
    """

    def __init__(self) -> None:
        self._sums = None
        self._shift = None
        self._count = 0

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds examples.

        Args:
            x: of one model ``[N, C]``.
            y: of another, of the same examples ``[N, C']``.
        """
        if not len(x):
            return
        x, y = x.double(), y.double()
        if self._shift is None:  # HSIC does not feel it, but the sums' last digits do
            self._shift = x.mean(0), y.mean(0)
        x, y = x - self._shift[0], y - self._shift[1]
        sums = [_sums(a, b) for a, b in ((x, y), (x, x), (y, y))]
        if self._sums is None:
            self._sums = sums
        else:
            self._sums = [[a + b for a, b in zip(*pair)] for pair in zip(self._sums, sums)]
        self._count += len(x)

    def value(self) -> float | None:
        """From about 0 to 1; ``None`` for fewer than 4 examples, or where one side is constant."""
        if self._count < 4:
            return None
        both, first, second = (_hsic(*sums, self._count) for sums in self._sums)
        if first <= 0 or second <= 0:
            return None
        return float(both / (first * second).sqrt())


def _sums(x: Tensor, y: Tensor) -> list[Tensor]:
    q, r = x.square().sum(1), y.square().sum(1)
    return [x.sum(0), y.sum(0), x.T @ y, q.sum(), r.sum(), r @ x, q @ y, q @ r]


def _hsic(sx, sy, xy, q, r, rx, qy, qr, n: int) -> Tensor:
    """Of kernels without their diagonals; ``q`` and ``r`` are the squared norms on these."""
    trace = xy.square().sum() - qr
    ones = (sx @ sx - q) * (sy @ sy - r) / ((n - 1) * (n - 2))
    cross = sx @ xy @ sy - sx @ rx - qy @ sy + qr
    return (trace + ones - 2 / (n - 2) * cross) / (n * (n - 3))
