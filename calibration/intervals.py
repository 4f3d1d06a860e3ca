"""95 % intervals that know questions about one picture are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_Z = 1.959964  # two-sided 95 % of the normal distribution

#: Variance of equal values, whose mean rounds; one value apart from a million others has 1e-12.
_ROUNDING = 1e-24


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """The three for people, with so many digits behind the point."""
        value, low, high = (f"{number:.{digits}f}" for number in self)
        return f"{value} ({low} to {high})"


def accuracy(right: Sequence[float] | Floats, clusters: Sequence[int]) -> Interval:
    """Share of right answers, with a Wilson interval on the effective number of questions.

    The cluster-robust variance of a mean (Liang and Zeger 1986) gives the number of independent questions that would
    vary as much; Wilson's interval keeps a sensible width near 0 and 1.
    """
    values = np.asarray(right, dtype=np.float64)
    if not len(values):
        return Interval(float("nan"), 0.0, 1.0)
    mean = values.mean()
    variance = _variance(values - mean, clusters)
    count = mean * (1 - mean) / variance if variance > _ROUNDING else float(len({*clusters}))
    centre = (mean + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * np.sqrt(mean * (1 - mean) / count + _Z**2 / (4 * count**2))
    return Interval(float(mean), float(np.clip(centre - half, 0, mean)), float(np.clip(centre + half, mean, 1)))


def retention(right: Sequence[float] | Floats, full: Sequence[float] | Floats, clusters: Sequence[int]) -> Interval:
    """Accuracy by the uncompressed model's accuracy on the same questions; linearised variance, by cluster.

    A ratio of means R = a / b varies as the mean of (a_i - R b_i) / b (delta method); pairing by question removes
    what both get wrong alike.
    """
    top, bottom = np.asarray(right, dtype=np.float64), np.asarray(full, dtype=np.float64)
    base = bottom.mean() if len(bottom) else 0.0
    if not base:
        return Interval(float("nan"), 0.0, float("inf"))
    ratio = float(top.mean() / base)
    half = _Z * float(np.sqrt(_variance((top - ratio * bottom) / base, clusters)))
    return Interval(ratio, max(0.0, ratio - half), ratio + half)


def difference(right: Sequence[float] | Floats, full: Sequence[float] | Floats, clusters: Sequence[int]) -> Interval:
    """Accuracy minus the reference's on the same questions; cluster-robust variance of the paired differences."""
    gaps = np.asarray(right, dtype=np.float64) - np.asarray(full, dtype=np.float64)
    if not len(gaps):
        return Interval(float("nan"), -1.0, 1.0)
    mean = float(gaps.mean())
    half = _Z * float(np.sqrt(_variance(gaps - mean, clusters)))
    return Interval(mean, mean - half, mean + half)


def _variance(values: Floats, clusters: Sequence[int]) -> float:
    """Cluster-robust variance of the mean of ``values``, whose mean is 0."""
    sums = np.bincount(np.unique(np.asarray(clusters), return_inverse=True)[1], weights=values)
    return float((sums**2).sum() / len(values) ** 2 * len(sums) / max(1, len(sums) - 1))
