"""From statistics to a range: the magnitude above which activations are cut off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration.quantise.statistics import BINS, Statistics

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
