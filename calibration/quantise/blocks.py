"""Weights [K, N] rounded, symmetric: to eight bits with a scale a column or in all, to four in blocks of rows.

Rows of a block share a scale a column. Pure functions from arrays to arrays.

``compensated`` takes what rounding a row of a weight changes out of the rows that follow: GPTQ (arXiv 2210.17323,
algorithm 1), in the weight's own order. With H = 2 X^T X of the rows X that enter the product, the square error of the
product grows least if the rows not yet rounded move by the error times a row of the inverse's Cholesky factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


def rounded_int8(weight: Floats, scale: Floats | None = None) -> Rounded:
    """One scale a column [N]: the largest magnitude becomes 127 unless ``scale`` says otherwise."""
    if scale is None:
        scale = scale_to(np.abs(weight).max(0), INT8_MAX)
    return Rounded(np.clip(np.rint(weight / scale), -INT8_MAX, INT8_MAX).astype(np.int8), scale)


def rounded_fp8(weight: Floats) -> Rounded:
    """One scale in all: the largest magnitude becomes 448."""
    scale = scale_to(np.abs(weight).max(), FP8_MAX)
    return Rounded((weight / scale).astype(ml_dtypes.float8_e4m3fn), scale)


def scale_to(largest: NDArray[np.float32], top: float) -> Floats:
    """Scales; where everything is zero any will do."""
    return np.where(largest > 0, largest / top, 1.0).astype(np.float32)


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


#: Share of H's mean diagonal that is added to it, the paper's: fewer rows than channels leave H without an inverse.
DAMPING = 0.01
#: Rows that make up for each other. H of K rows is K x K in float64, and its inverse and factor stand beside it: 0.5 GB
#: at 4,096 rows, 3.9 GB at the 11,008 of a 3B model's MLP. More rows are parted evenly; what one part's rounding
#: changes is then not made up for in the other.
LARGEST = 4096


class Grid(NamedTuple):
    """The codes that a block of rows can have.

    Args:
        nearest: Codes [N] nearest to a row [N], as whole or E2M1 numbers.
        widened: What codes [N] stand for.
    """

    nearest: Callable[[Floats], Floats]
    widened: Callable[[Floats], Floats]


#: Chooses the grid of a block [size, N] whose rows have so much importance [size].
Fit = Callable[[Floats, Floats], Grid]


def compensated(weight: Floats, form: Format, rows: Floats) -> Rounded:
    """``weight`` [K, N] rounded for a product with ``rows`` [n, K], which are a sample of what enters it.

    Each block's scale is chosen when its turn comes, from what is left of the weight then, clipped where that loses
    less (see ``Format.fitted``).
    """
    scales: list[Floats] = []

    def fit(block: Floats, importance: Floats) -> Grid:
        scale = form.fitted(block[None], importance[None])[0]
        scales.append(scale)
        return Grid(lambda row: form.nearest(row / scale), lambda codes: codes * scale)

    values = compensated_on(weight, form.size, rows, fit)
    return form.rounded(values, np.stack(scales))


def compensated_on(weight: Floats, size: int, rows: Floats, fit: Fit) -> Floats:
    """Codes [K, N] of ``weight`` on grids that ``fit`` chooses, one for each ``size`` rows, first to last.

    Args:
        weight: [K, N].
        size: Rows of a block; it divides K.
        rows: [n, K], a sample of what enters the product.
        fit: Asked when a block's turn comes, with what is left of it then.
    """
    parts = -(-len(weight) // LARGEST)
    step = -(-len(weight) // parts // size) * size
    slices = [
        _part(weight[first : first + step], size, rows[:, first : first + step], fit)
        for first in range(0, len(weight), step)
    ]
    return np.concatenate(slices)


def _part(weight: Floats, size: int, rows: Floats, fit: Fit) -> Floats:
    """Codes [K, N] of rows that make up for each other."""
    count = len(weight)
    hessian = 2 * (rows.T.astype(np.float64) @ rows) / max(len(rows), 1)
    power = np.diag(hessian).copy()
    hessian[np.diag_indices(count)] += DAMPING * power.mean() or 1.0
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T.astype(np.float32)
    left = weight.copy()
    values = np.zeros_like(weight)
    for first in range(0, count, size):
        last = first + size
        block = left[first:last]
        grid = fit(block, power[first:last].astype(np.float32))
        errors = np.zeros_like(block)
        for row in range(size):
            at = first + row
            values[at] = grid.nearest(block[row])
            errors[row] = (block[row] - grid.widened(values[at])) / factor[at, at]
            block[row + 1 :] -= np.outer(factor[at, at + 1 : last], errors[row])
        left[last:] -= factor[first:last, last:].T @ errors
    return values
