"""Window attention over a static grid, as a constant order of units and a few equal-length batches.

Windows at the right and bottom edge are smaller. Instead of padding them, windows of equal length are attended
together: at most four lengths exist, so a block costs at most four attentions and wastes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class WindowLayout:
    """Units in window order.

    Attributes:
        order: Raster index of the unit at each place.
        batches: (windows, units per window) of each run of equal windows, in that order.
    """

    order: tuple[int, ...]
    batches: tuple[tuple[int, int], ...]

    @property
    def inverse(self) -> tuple[int, ...]:
        """Place of each raster unit in window order."""
        places = [0] * len(self.order)
        for place, unit in enumerate(self.order):
            places[unit] = place
        return tuple(places)


def edges(size: int, window: int, original: int | None = None) -> list[int]:
    """Where windows begin and end along one axis of ``size`` units.

    With ``original`` (the axis before merging) a window covers the same picture area as before: its edges are scaled.
    """
    whole = original or size
    starts = [*range(0, whole, window), whole]
    return sorted({round(start * size / whole) for start in starts})


def layout(rows: int, columns: int, window: int, original: tuple[int, int] | None = None) -> WindowLayout:
    """Windows of ``window`` x ``window`` units on a ``rows`` x ``columns`` grid; 0 means one window for all."""
    side = window or max(rows, columns)
    row_edges = edges(rows, side, original[0] if original else None)
    column_edges = edges(columns, side, original[1] if original else None)
    windows = [
        [row * columns + column for row in range(top, bottom) for column in range(left, right)]
        for top, bottom in pairwise(row_edges)
        for left, right in pairwise(column_edges)
    ]
    windows.sort(key=len, reverse=True)
    lengths = [len(members) for members in windows]
    batches = tuple((lengths.count(length), length) for length in sorted(set(lengths), reverse=True))
    return WindowLayout(tuple(unit for members in windows for unit in members), batches)
