"""Weights [K, N] in blocks of rows that share a scale a column: the four-bit formats, their scales and grids."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from luvc_export.calibration.quantise.numerics.rounding import FP8_MAX, INT8_MAX, Floats, Rounded, scale_to

#: Largest magnitudes: -8 is left out so that a range is symmetric; E2M1 ends at 6 (OCP Microscaling 1.0, table 5).
INT4_MAX, FP4_MAX = 7.0, 6.0
#: Blocks of INT4 weights, best first: TensorRT takes 64 and 128 (its documentation, "Working with Quantized Types"),
#: and a block must divide the rows. NVFP4 has one size.
INT4_BLOCKS, FP4_BLOCKS = (128, 64, 32), (16,)
#: Shares of a block's largest magnitude that clipping tries.
CUTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@dataclass(frozen=True)
class Format:
    """A four-bit format.

    Args:
        top: Largest magnitude of a code.
        dtype: Type of a code.
        size: Rows of a block.
        tensor: Scale of the whole weight, by which block scales are E4M3 numbers (NVFP4); None for plain scales.
    """

    top: float
    dtype: type[np.generic]
    size: int
    tensor: float | None = None

    def nearest(self, scaled: Floats) -> Floats:
        """The codes' values nearest to ``scaled``, of any shape."""
        cut = np.clip(scaled, -self.top, self.top)
        return np.rint(cut) if self.tensor is None else cut.astype(self.dtype).astype(np.float32)

    def scales(self, largest: Floats) -> Floats:
        """Scales under which magnitudes ``largest`` become ``top``, as the format can store them."""
        scale = scale_to(largest, self.top)
        if self.tensor is None:
            return scale
        smallest = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).smallest_subnormal)
        stored = np.clip(scale / self.tensor, smallest, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)
        return stored.astype(np.float32) * np.float32(self.tensor)

    def fitted(self, blocks: Floats, importance: Floats | None = None) -> Floats:
        """A scale for each block: the largest magnitude becomes ``top``, or is cut off where that loses less.

        Args:
            blocks: [B, size, N].
            importance: Of each row [B, size]: blocks then choose among ``CUTS`` the one of least weighted square
                error (the clipping of AWQ, arXiv 2306.00978, section 3, on the diagonal alone); None cuts nothing off.

        Returns:
            [B, N].
        """
        largest = np.abs(blocks).max(1)
        scale = self.scales(largest)
        if importance is None:
            return scale
        best = np.full(largest.shape, np.inf, np.float32)
        for cut in CUTS:
            tried = self.scales(np.float32(cut) * largest)
            error = (self.nearest(blocks / tried[:, None]) * tried[:, None] - blocks) ** 2 * importance[:, :, None]
            total = error.sum(1)
            scale, best = np.where(total < best, tried, scale), np.minimum(best, total)
        return scale

    def rounded(self, values: Floats, scale: Floats) -> Rounded:
        """``values`` [K, N] of codes, as stored."""
        return Rounded(values.astype(self.dtype), scale, self.size, self.tensor)


def int4(weight: Floats) -> Format | None:
    """INT4 for a weight [K, N]; None where no block divides its rows."""
    size = _size(len(weight), INT4_BLOCKS)
    return None if size is None else Format(INT4_MAX, ml_dtypes.int4, size)


def int8(size: int) -> Format:
    """INT8 in blocks of ``size`` rows: what the worst products of a four-bit plan get."""
    return Format(INT8_MAX, np.int8, size)


def nvfp4(weight: Floats) -> Format | None:
    """NVFP4 for a weight [K, N]: E2M1, a block of 16, E4M3 block scales by one in fp32; None for other K than of 16s.

    The largest block scale becomes 448, as in NVIDIA's ModelOpt (``NVFP4QTensor.get_weights_scaling_factor_2``).
    """
    size = _size(len(weight), FP4_BLOCKS)
    tensor = float(scale_to(np.abs(weight).max(), FP4_MAX * FP8_MAX))
    return None if size is None else Format(FP4_MAX, ml_dtypes.float4_e2m1fn, size, tensor)


def nearest(weight: Floats, form: Format, importance: Floats | None = None) -> Rounded:
    """Every weight [K, N] to the nearest code of its block; ``importance`` [K] as in ``Format.fitted``."""
    blocks = weight.reshape(-1, form.size, weight.shape[1])
    scale = form.fitted(blocks, None if importance is None else importance.reshape(-1, form.size))
    return form.rounded(form.nearest(blocks / scale[:, None]).reshape(weight.shape), scale)


def _size(rows: int, sizes: tuple[int, ...]) -> int | None:
    return next((size for size in sizes if rows % size == 0), None)


def stored_scales(rounded: Rounded) -> NDArray[np.generic]:
    """Block scales as NVFP4 stores them, E4M3 [K / 16, N]."""
    assert rounded.tensor is not None
    return (rounded.scale / np.float32(rounded.tensor)).astype(ml_dtypes.float8_e4m3fn)
