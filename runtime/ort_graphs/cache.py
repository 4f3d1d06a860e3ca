"""States of a conversation as ONNX Runtime's values: rows that stand, and the newest ones apart (``two_parts``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.shapes import State, row_counts
from luvc_export.runtime.backend import Array
from luvc_export.runtime.ort_graphs.two_parts import NEWEST

#: Newest rows at most before they join those that stand: one copy of a cache in so many steps.
MOST_NEWEST = 64
#: Makes a value on the host of an array.
Make = Callable[[Array], Any]


@dataclass(frozen=True)
class OrtCache:
    """States (``DecoderShape.kept``) as OrtValues on the device that runs the graph, in graph order.

    ``newest`` are rows behind ``values``, where a state has some; such caches are the host's.
    """

    states: tuple[State, ...]
    values: tuple[Any, ...]
    newest: tuple[Any, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """See ``Cache.lengths``."""
        sizes = []
        for state, value, newest in self._parts():
            size = list(value.shape())
            if newest is not None and state.axis is not None:
                size[state.axis] += newest.shape()[state.axis]
            sizes.append(tuple(size))
        return row_counts(self.states, sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers together."""
        return sum(value.tensor_size_in_bytes() for value in (*self.values, *self.newest) if value is not None)

    def feeds(self, apart: Collection[str], make: Make) -> dict[str, Any]:
        """Values by name of a graph's inputs, of which ``apart`` are those of newest rows, in fp32."""
        values = {}
        for state, value, newest in self._parts():
            values[state.past] = value
            if state.past + NEWEST in apart:
                if newest is None:
                    newest = make(np.empty(state.sizes(value.shape()[0], 0), np.float32))
                values[state.past + NEWEST] = newest
        return values

    def after(self, present: Mapping[str, Any], apart: Collection[str], make: Make) -> OrtCache:
        """The cache after a call that gave ``present``: whole states, or newest rows where the graph has them apart."""
        values: list[Any] = list(self.values)
        newest: list[Any] = [None] * len(values)
        for at, state in enumerate(self.states):
            rows = present[state.present]
            if state.axis is None or state.past + NEWEST not in apart:
                values[at] = rows
            elif rows.shape()[state.axis] <= MOST_NEWEST:
                newest[at] = rows
            else:
                values[at] = make(np.concatenate([values[at].numpy(), rows.numpy()], state.axis))
        return OrtCache(self.states, tuple(values), _if_any(newest))

    def array(self, number: int) -> Array:
        """One state of a host's cache, whole."""
        state, value, newest = self._parts()[number]
        array: Array = value.numpy()
        return array if newest is None else np.concatenate([array, newest.numpy()], state.axis or 0)

    def some(self, rows: Mapping[int, NDArray[np.int64]], make: Make) -> OrtCache:
        """The cache of these rows of some states, by number; what was newest of them stands with the others."""
        values, newest = list(self.values), list(self.newest or [None] * len(self.values))
        for number, some in rows.items():
            values[number] = make(np.take(self.array(number), some, self.states[number].axis))
            newest[number] = None
        return OrtCache(self.states, tuple(values), _if_any(newest))

    def _parts(self) -> list[tuple[State, Any, Any]]:
        newest = self.newest or (None,) * len(self.values)
        return list(zip(self.states, self.values, newest, strict=True))


def _if_any(newest: list[Any]) -> tuple[Any, ...]:
    return tuple(newest) if any(rows is not None for rows in newest) else ()
