"""Rows that have left the window of their layer leave its cache.

A row of a layer with a window is out of sight once its place is the window's length, or more, before the next token of
every row of the batch. The decoder reads ``text_mask`` from its end, so what leaves in front of the others moves
nothing; what leaves between them moves the mask along, which may be done where the mask says the same of both places.
A copy costs as much as a step's caches, so rows go together, an eighth of a window of them (``shapes.spare_rows``).

Deciding (``rows_in_sight``) is apart from moving, which is the cache's (``HostCache.some``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.plan import Plan
from luvc_export.core.shapes import State, most_rows, spare_rows
from luvc_export.runtime.host.cache import HostCache

#: Place of a row that is missing: before every window.
NOWHERE = -(2**40)


class Windows:
    """Which rows of a plan's caches may leave; of layers without a window, none.

    Args:
        states: What the host's KV caches consist of, in graph order; none where a device has them.
        plan: Layers with equal budgets keep rows of the same places.
    """

    def __init__(self, states: Sequence[State], plan: Plan) -> None:
        self._states = tuple(states)
        #: For each window and budget: the states that have its rows, the first of them the places.
        self._alike: dict[tuple[int, int], list[int]] = {}
        self._layers: dict[tuple[int, int], int] = {}
        for number, state in enumerate(states):
            if state.window is not None:
                key = state.window, plan.keep[state.layer]
                self._layers.setdefault(key, state.layer)
                beside = [at for at, one in enumerate(states) if one.layer == state.layer and one.axis is not None]
                self._alike.setdefault(key, []).extend([number, *(at for at in beside if at != number)])

    def left(
        self, cache: HostCache, text_mask: NDArray[np.bool_], orders: Sequence[int] | NDArray[np.int64]
    ) -> HostCache:
        """A cache without what is out of sight; the same one where too little is.

        Args:
            cache: After a call; it stays valid.
            text_mask: Which slots of text hold a token of the row, bool [B, P].
            orders: The lowest place that a next token of each row can have.
        """
        if not self._alike:
            return cache
        kept: dict[int, NDArray[np.int64]] = {}
        lengths = dict(zip(sorted({state.layer for state in self._states}), cache.lengths, strict=True))
        for key, numbers in self._alike.items():
            if lengths[self._layers[key]] > most_rows(key[0]):
                places = cache.array(numbers[0])
                rows = rows_in_sight(places, text_mask, np.asarray(orders, np.int64), key[0])
                kept |= dict.fromkeys(numbers, rows) if len(rows) < places.shape[1] else {}
        return cache.some(kept) if kept else cache


def rows_in_sight(
    places: NDArray[np.int64], text_mask: NDArray[np.bool_], orders: NDArray[np.int64], window: int
) -> NDArray[np.int64]:
    """Which cached rows stay, ascending int64 [K]: all of them where less than ``spare_rows`` may go.

    Args:
        places: Of each cached row, [B, R].
        text_mask: See ``Windows.left``.
        orders: See there, [B].
        window: A row is seen by a token less than so many places behind it.
    """
    rows = places.shape[1]
    real = real_rows(rows, text_mask)
    seen = real & (places > orders[:, None] - window)
    stays = np.logical_or.reduce(seen, 0)
    stays[-1:] = True
    some = np.flatnonzero(stays)
    moved, own, sees = real_rows(len(some), text_mask), real[:, some], seen[:, some]
    far = places[:, some] <= orders[:, None] - window
    if not ((moved | ~sees) & (~moved | own | far)).all():  # the mask of another token would be a row's
        some = np.arange(int(stays.argmax()), rows)
    return some if rows - len(some) > spare_rows(window) else np.arange(rows)


def real_rows(rows: int, text_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of ``rows`` cached rows hold a token of the row, as the decoder reads it: bool [B, rows]."""
    column = np.arange(rows) - (rows - text_mask.shape[1])
    if not text_mask.shape[1]:
        return np.ones((len(text_mask), rows), np.bool_)
    real: NDArray[np.bool_] = (column < 0) | np.take(text_mask, np.maximum(column, 0), 1)
    return real
