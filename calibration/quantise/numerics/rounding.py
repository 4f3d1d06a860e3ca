"""Weights [K, N] rounded to eight bits, symmetric: pure functions from arrays to arrays. Four bits: ``blocks``."""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Largest magnitudes. E4M3 without infinities ends at 448 (arXiv 2209.05433, table 1); -128 is left out so that a
#: range is symmetric.
INT8_MAX, FP8_MAX = 127.0, 448.0


class Rounded(NamedTuple):
    """``values`` [K, N] in the narrow type and ``scale`` (none, [N] or [K / block, N]): their product is the weight.

    ``tensor`` is what ``scale`` is a multiple of, where a format stores that apart (NVFP4).
    """

    values: NDArray[np.generic]
    scale: Floats
    block: int | None = None
    tensor: float | None = None

    def widened(self) -> Floats:
        """The weight as the graph will see it, [K, N]."""
        scale = np.repeat(self.scale, self.block, 0) if self.block else self.scale
        return self.values.astype(np.float32) * scale


def int8(weight: Floats, scale: Floats | None = None) -> Rounded:
    """One scale a column [N]: the largest magnitude becomes 127 unless ``scale`` says otherwise."""
    if scale is None:
        scale = scale_to(np.abs(weight).max(0), INT8_MAX)
    return Rounded(np.clip(np.rint(weight / scale), -INT8_MAX, INT8_MAX).astype(np.int8), scale)


def fp8(weight: Floats) -> Rounded:
    """One scale in all: the largest magnitude becomes 448."""
    scale = scale_to(np.abs(weight).max(), FP8_MAX)
    return Rounded((weight / scale).astype(ml_dtypes.float8_e4m3fn), scale)


def scale_to(largest: NDArray[np.float32], top: float) -> Floats:
    """Scales; where everything is zero any will do."""
    return np.where(largest > 0, largest / top, 1.0).astype(np.float32)
