"""Rounding that makes up for itself: what rounding a row of a weight changes is taken out of the rows that follow.

GPTQ (arXiv 2210.17323, algorithm 1), in the weight's own order: with H = 2 X^T X of the rows X that enter the product,
the square error of the product grows least if the rows not yet rounded move by the error times a row of the inverse's
Cholesky factor.
"""

from __future__ import annotations

import numpy as np

from luvc_export.calibration.quantise.numerics.blocks import Format
from luvc_export.calibration.quantise.numerics.rounding import Floats, Rounded

#: Share of H's mean diagonal that is added to it, the paper's: fewer rows than channels leave H without an inverse.
DAMPING = 0.01
#: Rows that make up for each other. H of K rows is K x K in float64, and its inverse and factor stand beside it: 0.5 GB
#: at 4,096 rows, 3.9 GB at the 11,008 of a 3B model's MLP. More rows are parted evenly; what one part's rounding
#: changes is then not made up for in the other.
LARGEST = 4096


def compensated(weight: Floats, form: Format, rows: Floats) -> Rounded:
    """``weight`` [K, N] rounded for a product with ``rows`` [n, K], which are a sample of what enters it.

    Each block's scale is chosen when its turn comes, from what is left of the weight then, clipped where that loses
    less (see ``Format.fitted``).
    """
    parts = -(-len(weight) // LARGEST)
    step = -(-len(weight) // parts // form.size) * form.size
    slices = [
        _part(weight[first : first + step], form, rows[:, first : first + step])
        for first in range(0, len(weight), step)
    ]
    values, scale = (np.concatenate(each) for each in zip(*slices, strict=True))
    return form.rounded(values, scale)


def _part(weight: Floats, form: Format, rows: Floats) -> tuple[Floats, Floats]:
    """Codes [K, N] of rows that make up for each other, and the scales of their blocks."""
    count, width = weight.shape
    hessian = 2 * (rows.T.astype(np.float64) @ rows) / max(len(rows), 1)
    power = np.diag(hessian).copy()
    hessian[np.diag_indices(count)] += DAMPING * power.mean() or 1.0
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T.astype(np.float32)
    left = weight.copy()
    values, scale = np.zeros_like(weight), np.zeros((count // form.size, width), np.float32)
    for number, first in enumerate(range(0, count, form.size)):
        last = first + form.size
        block = left[first:last]
        importance = power[first:last].astype(np.float32)
        scale[number] = form.fitted(block[None], importance[None])[0]
        errors = np.zeros_like(block)
        for row in range(form.size):
            at = first + row
            values[at] = form.nearest(block[row] / scale[number])
            errors[row] = (block[row] - values[at] * scale[number]) / factor[at, at]
            block[row + 1 :] -= np.outer(factor[at, at + 1 : last], errors[row])
        left[last:] -= factor[first:last, last:].T @ errors
    return values, scale
