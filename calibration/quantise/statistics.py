"""What is remembered of the activations that enter one site: enough for every way to choose a range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: Bins of the histogram of magnitudes; its edge doubles when a larger value comes, so counts are never spread anew.
BINS = 2048
#: Rows kept to try scales on and to round by; twice as many are thinned to every second one. With 1,024 the predictions
#: of the bundled model in int4 moved 25 % less than with 256 (docs/calibration.md).
ROWS = 1024

Floats = NDArray[np.float32]


@dataclass
class Statistics:
    """Streaming statistics of rows [n, K].

    Attributes:
        rows: Rows seen.
        edge: Upper end of the histogram.
        counts: Magnitudes per bin, int64 [BINS].
        largest: Largest magnitude of each channel [K].
        total: Sum of magnitudes of each channel, float64 [K].
        sample: Some of the rows, evenly spread, [n <= 2 * ROWS, K].
    """

    rows: int = 0
    edge: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    largest: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    sample: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    _stride: int = 1

    @property
    def maximum(self) -> float:
        """Largest magnitude of all."""
        return float(self.largest.max(initial=0.0))

    @property
    def mean(self) -> Floats:
        """Mean magnitude of each channel [K]."""
        return (self.total / max(self.rows, 1)).astype(np.float32)

    def divided(self, factor: Floats) -> Statistics:
        """Of the same activations divided by ``factor`` [K]: the histogram is of the sample, the rest exact."""
        statistics = Statistics()
        statistics.add(self.sample / factor)
        statistics.rows, statistics.largest = self.rows, self.largest / factor
        statistics.total = self.total / factor
        return statistics

    def add(self, activations: NDArray[np.generic]) -> None:
        """Take in [..., K]."""
        values = activations.reshape(-1, activations.shape[-1]).astype(np.float32)
        if not len(values):
            return
        sizes = np.abs(values)
        if not self.rows:
            width = values.shape[1]
            self.largest = np.zeros(width, np.float32)
            self.total = np.zeros(width)
            self.sample = np.zeros((0, width), np.float32)
        self.largest = np.maximum(self.largest, sizes.max(0))
        self.total += sizes.sum(0, dtype=np.float64)
        self._count(sizes)
        start = -self.rows % self._stride
        self.sample = np.concatenate([self.sample, values[start :: self._stride]])
        self.rows += len(values)
        while len(self.sample) >= 2 * ROWS:
            self.sample, self._stride = self.sample[::2].copy(), 2 * self._stride

    def _count(self, sizes: Floats) -> None:
        top = float(sizes.max())
        if not self.edge:
            self.edge = top or 1.0
        while top > self.edge:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.edge *= 2
        self.counts += np.histogram(sizes, BINS, (0.0, self.edge))[0]


#: Magnitudes of a signed 8-bit value, zero included: what entropy compares the histogram with.
LEVELS = 128


def largest(seen: Statistics, percentile: float) -> float:
    """The largest magnitude seen; nothing is cut off."""
    return seen.maximum


def by_percentile(seen: Statistics, percentile: float) -> float:
    """The magnitude that ``percentile`` % of all values do not exceed, to a bin."""
    share = np.cumsum(seen.counts) / max(1, seen.counts.sum())
    place = int(np.searchsorted(share, percentile / 100))
    return min(seen.maximum, (min(place, BINS - 1) + 1) * seen.edge / BINS)


def entropy(seen: Statistics, percentile: float) -> float:
    """The cut whose 8-bit distribution loses least information (smallest KL divergence).

    S. Migacz, "8-bit Inference with TensorRT", GTC 2017 (S7310), slides 29 to 38; every eighth cut is tried. Bins of
    the quantised distribution hold the mean of the non-empty bins they stand for; the first bin, which is mostly
    exact zeros, takes the value of the second, as ``pytorch_quantization`` does.
    """
    counts = seen.counts.astype(np.float64)
    counts[0] = counts[1]
    best, cut = np.inf, BINS
    for size in range(LEVELS, BINS + 1, 8):
        divergence = _divergence(counts, size)
        if divergence < best:
            best, cut = divergence, size
    return min(seen.maximum, cut * seen.edge / BINS)


def _divergence(counts: NDArray[np.float64], size: int) -> float:
    kept = counts[:size]
    true = kept.copy()
    true[-1] += counts[size:].sum()
    level = np.arange(size) * LEVELS // size
    filled = kept > 0
    sums = np.bincount(level, weights=kept, minlength=LEVELS)
    bins = np.bincount(level, weights=filled, minlength=LEVELS)
    rounded = np.where(filled, (sums / np.maximum(bins, 1))[level], 0.0)
    if not rounded.sum() or not true.sum():
        return float("inf")
    p, q = true / true.sum(), rounded / rounded.sum()
    both = (p > 0) & (q > 0)
    lost = p[(p > 0) & (q == 0)].sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + lost * np.log(1e9))


#: Ways to choose a range, by name: (statistics, percentile) -> largest magnitude that is kept.
METHODS: dict[str, Callable[[Statistics, float], float]] = {
    "max": largest,
    "percentile": by_percentile,
    "entropy": entropy,
}
