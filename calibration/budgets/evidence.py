"""What agreeing answers prove: intervals, whether a bar can still be reached, paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration import intervals
from luvc_export.calibration.intervals import Interval

Bools = Sequence[bool] | NDArray[np.bool_]


def agreement(agrees: Bools, clusters: Sequence[int]) -> Interval:
    """Share of answers that agree, with the interval of ``intervals.accuracy``.

    Without one disagreement that interval cannot estimate how dependent the questions of a picture are and counts
    pictures. But it proves no less than the same answers with one disagreement more, so the better bound of the two
    is taken.
    """
    interval = intervals.accuracy(np.asarray(agrees, dtype=np.float64), clusters)
    if len(agrees) and all(agrees):
        one = np.ones(len(agrees))
        one[0] = 0.0
        return Interval(1.0, max(interval.low, intervals.accuracy(one, clusters).low), 1.0)
    return interval


def at_best(agrees: Bools, clusters: Sequence[int]) -> float:
    """Lower bound of the agreement over all ``clusters`` if every answer after the first ``agrees`` agreed."""
    return agreement([*agrees, *[True] * (len(clusters) - len(agrees))], clusters).low


def difference(ours: Bools, theirs: Bools, clusters: Sequence[int]) -> Interval:
    """Agreement of one plan minus another's on the same questions; normal 95 % interval, clustered by picture."""
    gap = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    mean = float(gap.mean())
    sums = np.bincount(np.unique(np.asarray(clusters), return_inverse=True)[1], weights=gap - mean)
    variance = (sums**2).sum() / len(gap) ** 2 * len(sums) / max(1, len(sums) - 1)
    half = 1.959964 * float(np.sqrt(variance))
    return Interval(mean, mean - half, mean + half)
