"""Rounding that makes up for itself: what rounding a row of a weight changes is taken out of the rows that follow.

GPTQ (arXiv 2210.17323, algorithm 1), in the weight's own order: with H = 2 X^T X of the rows X that enter the product,
the square error of the product grows least if the rows not yet rounded move by the error times a row of the inverse's
Cholesky factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from luvc_export.calibration.quantise.numerics.blocks import Format
from luvc_export.calibration.quantise.numerics.rounding import Floats, Rounded

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
