"""Which units of an image its neighbours foretell, and which of them a bucket takes.

A unit is foretold as in lossless JPEG, by the rule of PixelPrune (arXiv 2604.00886; read from its code): from the unit
above where those to the left and above left are alike and that above is another, else from the one to the left; in the
first row from the left, in the first column from above. With a tolerance, what stands for a dropped unit is what it was
foretold from, so that small differences do not add up. In a bucket wider than it must be, the units nearest to being
novel follow (ours).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Novelty of the first unit, which nothing foretells: more than pixels can differ by.
FIRST = 256


def novelty(pixels: NDArray[np.uint8], grid: tuple[int, int], side: int, tolerance: int = 0) -> NDArray[np.int16]:
    """How far each unit is from what its neighbours foretell: the largest difference of a pixel, in levels of 0 to 255.

    Args:
        pixels: uint8 [F, H, W, 3]; what lies beyond the grid is not looked at.
        grid: Units (rows, columns).
        side: Pixels of a unit's side.
        tolerance: Levels up to which a unit is foretold, and neighbours are alike.

    Returns:
        int16 [rows, columns]; above ``tolerance`` a unit is novel.
    """
    rows, columns = grid
    cut = pixels[:, : rows * side, : columns * side].reshape(-1, rows, side, columns, side, 3)
    units = np.ascontiguousarray(cut.transpose(1, 3, 0, 2, 4, 5)).reshape(rows, columns, -1)
    return _exact(units) if tolerance == 0 else _within(units, tolerance)


def _exact(units: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Without a tolerance what stands for a unit is the unit, so that differences of neighbours say all."""
    differences = np.zeros(units.shape[:2], np.int16)
    left, above = _apart(units[:, 1:], units[:, :-1]), _apart(units[1:], units[:-1])
    differences[0, 1:], differences[1:, 0], differences[0, 0] = left[0], above[:, 0], FIRST
    from_above = (above[:, :-1] == 0) & (left[:-1] != 0)
    differences[1:, 1:] = np.where(from_above, above[:, 1:], left[1:])
    return differences


def _within(units: NDArray[np.uint8], tolerance: int) -> NDArray[np.int16]:
    rows, columns, _ = units.shape
    flat, differences = units.reshape(rows * columns, -1), np.zeros((rows, columns), np.int16)
    differences[0, 0] = FIRST
    stands = np.zeros((rows, columns), np.int64)  # which unit's pixels stand for each
    for row in range(rows):
        for column in range(columns):
            if (row, column) == (0, 0):
                continue
            left, above = stands[row, column - 1], stands[row - 1, column]
            if not row or not column:
                source = above if row else left
            else:
                corner = stands[row - 1, column - 1]
                alike = corner == left or _apart(flat[corner], flat[left]) <= tolerance
                other = corner != above and _apart(flat[corner], flat[above]) > tolerance
                source = above if alike and other else left
            own = row * columns + column
            differences[row, column] = _apart(flat[own], flat[source])
            stands[row, column] = own if differences[row, column] > tolerance else source
    return differences


def _apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Largest difference along the last axis."""
    apart: NDArray[np.int16] = (np.maximum(one, other) - np.minimum(one, other)).max(-1).astype(np.int16)
    return apart


def most_novel(differences: NDArray[np.int16], count: int) -> NDArray[np.int32]:
    """The ``count`` most novel units of each image, int32 [n, count], ascending; of equal ones the first.

    Args:
        differences: int16 [n, rows, columns], from ``novelty``.
        count: Units in the bucket.
    """
    flat = differences.reshape(len(differences), differences.shape[1] * differences.shape[2])  # also of no image
    return np.sort(np.argsort(-flat, axis=1, kind="stable")[:, :count], axis=1).astype(np.int32)
