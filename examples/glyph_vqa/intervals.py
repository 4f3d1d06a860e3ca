"""Accuracy with a 95 % confidence interval that knows questions about one picture are not independent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

Z = 1.959964  # two-sided 95 %


def interval(right: Sequence[bool], cluster: Sequence[int]) -> tuple[float, float, float]:
    """Return (accuracy, low, high) of answers grouped by picture.

    The cluster-robust variance of a mean (Liang and Zeger 1986) gives an effective number of questions, which goes
    into a Wilson interval, so that an accuracy near one keeps an interval of sensible width.
    """
    values, groups = np.asarray(right, dtype=float), np.asarray(cluster)
    if not len(values):
        raise ValueError("no answers to take an interval of")
    n, mean = len(values), values.mean()
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], weights=values - mean)
    variance = (sums**2).sum() / n**2 * len(sums) / max(1, len(sums) - 1)
    effective = mean * (1 - mean) / variance if variance > 0 else float(len(sums))
    centre = (mean + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    half = Z / (1 + Z**2 / effective) * np.sqrt(mean * (1 - mean) / effective + Z**2 / (4 * effective**2))
    return float(mean), float(max(0.0, centre - half)), float(min(1.0, centre + half))


def chance(kind: str, answers: Sequence[str]) -> float:
    """Return the accuracy of the best guess without a picture: the most frequent answer, or one of the two colours."""
    return 0.5 if kind == "larger" else Counter(answers).most_common(1)[0][1] / len(answers)
