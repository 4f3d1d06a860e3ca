"""Factors that move difficulty between activations and weights: x W = (x / s) (s W), one s for each of K channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration.quantise.numerics import blocks
from luvc_export.calibration.quantise.statistics import Statistics

Floats = NDArray[np.float32]

#: Exponents that activation-aware scaling tries; 0 is rounding to nearest.
_STEPS = 20
#: Factors stay within this of 1 either way, so that no channel vanishes in fp16.
_BOUND = 1e3


def smooth(seen: Statistics, weight: Floats, alpha: float) -> Floats:
    """SmoothQuant: s = max|x|^alpha / max|W|^(1 - alpha) by channel (arXiv 2211.10438, equation 4).

    Args:
        seen: Of the activations.
        weight: [K, N].
        alpha: 0 leaves all difficulty in the activations, 1 moves all of it to the weights.

    Returns:
        s [K].
    """
    outer = np.abs(weight).max(1)
    factor = np.maximum(seen.largest, 1e-5) ** alpha / np.maximum(outer, 1e-5) ** (1 - alpha)
    return _bounded(np.where(seen.largest > 0, factor, 1.0).astype(np.float32))


def activation_aware(seen: Statistics, weight: Floats, form: Callable[[Floats], blocks.Format | None]) -> Floats:
    """AWQ: s = mean|x|^a, a chosen by the error of the product on sampled rows (arXiv 2306.00978, equations 4 and 5).

    Clipping and compensation come after, with the chosen s.

    Args:
        seen: Of the activations.
        weight: [K, N].
        form: The four-bit format for a weight.

    Returns:
        s [K]; all ones where nothing does better.
    """
    rows, mean = seen.sample, np.maximum(seen.mean, np.float32(1e-5))
    wanted = rows @ weight
    best, chosen = np.inf, np.ones(len(mean), np.float32)
    for step in range(_STEPS):
        factor = np.power(mean, step / _STEPS, dtype=np.float32)
        factor = _bounded(factor / np.sqrt(factor.max() * factor.min()))
        scaled = weight * factor[:, None]
        format_ = form(scaled)
        assert format_ is not None
        rounded = blocks.nearest(scaled, format_)
        error = float(np.square((rows / factor) @ rounded.widened() - wanted).sum())
        if error < best:
            best, chosen = error, factor
    return chosen


def _bounded(factor: NDArray[np.floating]) -> Floats:
    return np.clip(factor, 1 / _BOUND, _BOUND).astype(np.float32)
