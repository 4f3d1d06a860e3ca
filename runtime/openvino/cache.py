"""States of a conversation in OpenVINO's tensors: rows that stand, and the newest ones apart (``tails``)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.shapes import State, row_counts
from luvc_export.runtime.backend import Array
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.tails import NEWEST

#: Newest rows at most before they join those that stand: one copy of a cache in so many steps.
MOST_NEWEST = 64


@dataclass(frozen=True)
class OpenVinoCache:
    """States (``DecoderShape.kept``) as ``openvino.Tensor`` in graph order. No call writes to them again.

    ``held`` are arrays whose memory ``values`` use, if any; ``newest`` are rows behind those, where a state has some.
    """

    states: tuple[State, ...]
    values: tuple[Any, ...]
    held: tuple[Array | None, ...] = ()
    newest: tuple[Any, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """See ``Cache.lengths``."""
        sizes = []
        for state, value, newest in self._parts():
            size = list(value.shape)
            if newest is not None and state.axis is not None:
                size[state.axis] += newest.shape[state.axis]
            sizes.append(tuple(size))
        return row_counts(self.states, sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers together."""
        return sum(int(value.byte_size) for value in (*self.values, *self.newest) if value is not None)

    def feeds(self, inputs: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """Tensors by name of a graph's inputs."""
        tensors, library = {}, devices.load_library()
        for state, value, newest in self._parts():
            tensors[state.past] = value
            if state.past + NEWEST in inputs:
                if newest is None:
                    kind, none = inputs[state.past + NEWEST][0], state.sizes(value.shape[0], 0)
                    newest = library.Tensor(kind, library.Shape(none))
                tensors[state.past + NEWEST] = newest
        return tensors

    def after(self, present: Mapping[str, Any], inputs: Collection[str]) -> OpenVinoCache:
        """The cache after a call that gave ``present``: whole states, or newest rows where the graph has them apart."""
        values, library = list(self.values), devices.load_library()
        newest: list[Any] = [None] * len(values)
        held = list(self.held or newest)
        for at, state in enumerate(self.states):
            rows = present[state.present]
            if state.axis is None or state.past + NEWEST not in inputs or not values[at].shape[state.axis]:
                values[at], held[at] = rows, None
            elif rows.shape[state.axis] <= MOST_NEWEST:
                newest[at] = rows
            else:
                array = np.concatenate([values[at].data, rows.data], state.axis)
                values[at] = library.Tensor(array, library.Shape(array.shape), rows.element_type)
                held[at] = array
        return OpenVinoCache(self.states, tuple(values), tuple(held), tuple(newest))

    def arrays(self, read: Callable[[Any], Array]) -> list[Array]:
        """Each state whole, as ``read`` gives a tensor."""
        return [self.array(number, read) for number in range(len(self.states))]

    def array(self, number: int, read: Callable[[Any], Array]) -> Array:
        """One state whole, as ``read`` gives a tensor."""
        state, value, newest = self._parts()[number]
        array = read(value)
        return array if newest is None else np.concatenate([array, read(newest)], state.axis or 0)

    def some(self, rows: Mapping[int, NDArray[np.int64]]) -> OpenVinoCache:
        """The cache of these rows of some states, by number; what was newest of them stands with the others."""
        values, library = list(self.values), devices.load_library()
        newest = list(self.newest or [None] * len(values))
        held = list(self.held or [None] * len(values))
        for number, some in rows.items():
            array = np.take(self.array(number, lambda value: value.data), some, self.states[number].axis)
            values[number] = library.Tensor(array, library.Shape(array.shape), values[number].element_type)
            held[number], newest[number] = array, None
        return OpenVinoCache(self.states, tuple(values), tuple(held), tuple(newest))

    def _parts(self) -> list[tuple[State, Any, Any]]:
        newest = self.newest or (None,) * len(self.values)
        return list(zip(self.states, self.values, newest, strict=True))
