"""Weights [K, N] rounded to fewer bits, symmetric: pure functions from arrays to arrays."""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Largest magnitudes. E4M3 without infinities ends at 448 (arXiv 2209.05433, table 1); -128 and -8 are left out so
#: that a range is symmetric.
INT8_MAX, INT4_MAX, FP8_MAX = 127.0, 7.0, 448.0
#: Blocks of INT4 weights, best first: TensorRT takes 64 and 128 (its documentation, "Working with Quantized Types"),
#: and a block must divide the rows.
BLOCKS = (128, 64, 32)
#: Shares of a block's largest magnitude that clipping tries.
CUTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


class Rounded(NamedTuple):
    """``values`` [K, N] in the narrow type and ``scale`` (none, [N] or [K / block, N]): their product is the weight."""

    values: NDArray[np.generic]
    scale: Floats
    block: int | None = None

    def widened(self) -> Floats:
        """The weight as the graph will see it, [K, N]."""
        scale = np.repeat(self.scale, self.block, 0) if self.block else self.scale
        return self.values.astype(np.float32) * scale


def int8(weight: Floats) -> Rounded:
    """One scale a column: the largest magnitude becomes 127."""
    scale = _scale(np.abs(weight).max(0), INT8_MAX)
    return Rounded(np.clip(np.rint(weight / scale), -INT8_MAX, INT8_MAX).astype(np.int8), scale)


def fp8(weight: Floats) -> Rounded:
    """One scale in all: the largest magnitude becomes 448."""
    scale = _scale(np.abs(weight).max(), FP8_MAX)
    return Rounded((weight / scale).astype(ml_dtypes.float8_e4m3fn), scale)


def int4(weight: Floats, size: int, importance: Floats | None = None) -> Rounded:
    """One scale for ``size`` rows of a column: the largest magnitude becomes 7, or is cut off where that loses less.

    Args:
        weight: [K, N].
        size: Rows of a block; divides K.
        importance: Mean square of the activation of each row [K]: blocks then choose among ``CUTS`` the one of least
            weighted error (the clipping of AWQ, arXiv 2306.00978, section 3, on the diagonal alone); None rounds to
            nearest.
    """
    blocks = weight.reshape(-1, size, weight.shape[1])
    weights = np.ones((1, 1, 1), np.float32) if importance is None else importance.reshape(-1, size, 1)
    largest = np.abs(blocks).max(1)
    best = np.full(largest.shape, np.inf, np.float32)
    scale = np.ones(largest.shape, np.float32)
    for cut in CUTS[:1] if importance is None else CUTS:
        tried = _scale(cut * largest, INT4_MAX)
        error = ((_nearest(blocks, tried) * tried[:, None] - blocks) ** 2 * (1.0 if weights is None else weights)).sum(
            1
        )
        scale = np.where(error < best, tried, scale)
        best = np.minimum(best, error)
    rounded = _nearest(blocks, scale)
    return Rounded(rounded.reshape(weight.shape).astype(ml_dtypes.int4), scale, size)


def _nearest(blocks: Floats, scale: Floats) -> Floats:
    return np.clip(np.rint(blocks / scale[:, None]), -INT4_MAX, INT4_MAX)


def block(rows: int) -> int | None:
    """The block for a weight of so many rows; None where none divides them."""
    return next((size for size in BLOCKS if rows % size == 0), None)


def _scale(largest: NDArray[np.float32], top: float) -> Floats:
    """Scales; where everything is zero any will do."""
    return np.where(largest > 0, largest / top, 1.0).astype(np.float32)
