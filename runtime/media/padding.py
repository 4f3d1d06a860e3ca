"""Which visual units show padding alone, and which visual tokens are made of such units alone.

The host knows both: where the picture lies on the canvas, and from ``merged_into`` what became of every unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import BundleError

#: (left, top, right, bottom) in pixels of the canvas.
Box = tuple[float, float, float, float]


def all_picture(images: int, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Units of images without padding, bool [images, rows, columns]."""
    return np.zeros((images, *grid), np.bool_)


def padding_units(boxes: Sequence[Box], grid: tuple[int, int], unit: tuple[float, float]) -> NDArray[np.bool_]:
    """Units that no part of a picture reaches into; one at the picture's edge counts as picture.

    Args:
        boxes: Where the pictures of one image's frames lie.
        grid: Units (rows, columns).
        unit: Height and width of a unit in pixels.

    Returns:
        bool [rows, columns].
    """
    top, left = (np.arange(count) * side for count, side in zip(grid, unit, strict=True))
    shown = np.zeros(grid, np.bool_)
    for x0, y0, x1, y1 in boxes:
        rows = (top < y1) & (top + unit[0] > y0)
        columns = (left < x1) & (left + unit[1] > x0)
        shown |= rows[:, None] & columns[None, :]
    return ~shown


def padding_tokens(padding: NDArray[np.bool_], merged_into: NDArray[np.int64] | None, tokens: int) -> NDArray[np.bool_]:
    """Visual tokens all of whose units are padding.

    Args:
        padding: bool [n, H0, W0].
        merged_into: int64 [n, H0 * W0], see ``graph_io``; None where nothing merges.
        tokens: N_0, visual tokens an image.

    Returns:
        bool [n, N_0].

    Raises:
        BundleError: Units merged, and the graph does not say into what.
    """
    units = padding.reshape(len(padding), -1)
    if merged_into is None:
        if units.shape[1] != tokens:
            raise BundleError(
                "the vision graph does not say what units became, so nobody knows which tokens are padding",
                where="merged_into",
                got=f"{units.shape[1]} units, {tokens} tokens",
                fix="export the bundle again",
            )
        return units
    padded = np.ones((len(padding), tokens), np.bool_)
    image, place = np.nonzero(~units)
    into = merged_into[image, place]
    padded[image[into >= 0], into[into >= 0]] = False  # below 0: units that left the encoder
    return padded
