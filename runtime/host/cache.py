"""KV caches in the host's memory, one form for all engines: rows that stand, and the newest rows apart.

A decoder graph with split inputs (``graph_io.NEWEST``) reads standing rows where they lie and gives the newest alone,
so that a step copies no cache. The newest join the standing ones every ``MOST_NEWEST`` steps.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.graph_io import NEWEST
from luvc_export.core.shapes import State, row_counts
from luvc_export.runtime.model import Array, Backend

#: Newest rows at most before they join those that stand: one copy of a cache in so many steps.
MOST_NEWEST = 64


class CacheValues(ABC):
    """How an engine holds the arrays of a cache.

    Args:
        owner: The back-end that runs the engine.
    """

    def __init__(self, owner: Backend) -> None:
        self._owner = weakref.ref(owner)  # which holds this, and goes with its weights when nobody else holds it

    @property
    def owner(self) -> Any:
        """The back-end that runs the engine."""
        return self._owner()

    @abstractmethod
    def make(self, array: Array, name: str) -> Any:
        """A value of exactly these bits for the input ``name``. The array is nobody else's and lives as long."""

    @abstractmethod
    def narrow(self, array: Array, name: str) -> Any:
        """A value for the input ``name`` of an array, floats float32, which are narrowed to the input's type."""

    @abstractmethod
    def read(self, value: Any) -> Array:
        """The bits of a value as numpy has them; not to be written to."""

    def floats(self, value: Any) -> Array:
        """A value with floats as float32; not to be written to."""
        array = self.read(value)
        return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array

    @abstractmethod
    def shape(self, value: Any) -> Sequence[int]:
        """Sizes of a value."""

    @abstractmethod
    def nbytes(self, value: Any) -> int:
        """Bytes of a value."""


@dataclass(frozen=True)
class HostCache:
    """States of conversations (``DecoderShape.kept``) in graph order, as an engine's values. Never changed.

    Args:
        states: What they are.
        kind: How the engine holds them.
        values: One a state, [B, ...].
        newest: Rows behind ``values``, where a state has some; empty for none at all.
    """

    states: tuple[State, ...]
    kind: CacheValues
    values: tuple[Any, ...]
    newest: tuple[Any, ...] = ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Rows (visual and text) of each layer's keys; 0 where a layer has none."""
        sizes = []
        for state, value, newest in self._parts():
            size = list(self.kind.shape(value))
            if newest is not None and state.axis is not None:
                size[state.axis] += self.kind.shape(newest)[state.axis]
            sizes.append(tuple(size))
        return row_counts(self.states, sizes)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers together."""
        return sum(self.kind.nbytes(value) for value in (*self.values, *self.newest) if value is not None)

    def feeds(self, inputs: Collection[str], kind: CacheValues) -> dict[str, Any]:
        """Values by name of those ``inputs`` of a decoder that are its cache; ``kind`` is the decoder's."""
        values = {}
        for state, value, newest in self._parts():
            values[state.past] = value
            if (name := state.past + NEWEST) in inputs:
                none = np.empty(state.sizes(self.kind.shape(value)[0], 0), np.float32)
                values[name] = kind.narrow(none, name) if newest is None else newest
        return values

    def after(self, present: Mapping[str, Any], inputs: Collection[str], kind: CacheValues) -> HostCache:
        """The cache after a call that gave ``present``: whole states, or newest rows where ``inputs`` splits them.

        ``kind`` is that of the decoder that ran.
        """
        values: list[Any] = list(self.values)
        newest: list[Any] = [None] * len(values)
        for at, state in enumerate(self.states):
            rows = present[state.present]
            apart = state.axis is not None and state.past + NEWEST in inputs
            if not apart or not kind.shape(values[at])[state.axis or 0]:
                values[at] = rows
            elif kind.shape(rows)[state.axis or 0] <= MOST_NEWEST:
                newest[at] = rows
            else:
                joined = [kind.read(values[at]), kind.read(rows)]
                values[at] = kind.make(np.concatenate(joined, state.axis or 0), state.past)
        return HostCache(self.states, kind, tuple(values), _if_any(newest))

    def array(self, number: int) -> Array:
        """One state whole, in the bits it is stored in; not to be written to."""
        return self._whole(number, self.kind.read)

    def arrays(self) -> list[Array]:
        """All states, see ``array``."""
        return [self.array(number) for number in range(len(self.states))]

    def floats(self) -> list[Array]:
        """All states, floats as float32; not to be written to."""
        return [self._whole(number, self.kind.floats) for number in range(len(self.states))]

    def like(self, arrays: Sequence[Array]) -> HostCache:
        """A cache of such arrays (``arrays``) on the same engine; nobody writes to them again."""
        return host_cache(self.states, self.kind, arrays)

    def some(self, rows: Mapping[int, NDArray[np.int64]]) -> HostCache:
        """The cache of these rows of some states, by number, ascending int64 [K]; all rows of the others."""
        values, newest = list(self.values), list(self.newest or [None] * len(self.values))
        for number, chosen in rows.items():
            state = self.states[number]
            values[number] = self.kind.make(np.take(self.array(number), chosen, state.axis), state.past)
            newest[number] = None
        return HostCache(self.states, self.kind, tuple(values), _if_any(newest))

    def _whole(self, number: int, read: Any) -> Array:
        state, value, newest = self._parts()[number]
        array: Array = read(value)
        return array if newest is None else np.concatenate([array, read(newest)], state.axis or 0)

    def _parts(self) -> list[tuple[State, Any, Any]]:
        newest = self.newest or (None,) * len(self.values)
        return list(zip(self.states, self.values, newest, strict=True))


def host_cache(states: tuple[State, ...], kind: CacheValues, arrays: Sequence[Array]) -> HostCache:
    """The cache of such arrays as they are stored; nobody writes to them again."""
    values = (kind.make(np.ascontiguousarray(array), state.past) for state, array in zip(states, arrays, strict=True))
    return HostCache(states, kind, tuple(values))


def _if_any(newest: list[Any]) -> tuple[Any, ...]:
    return tuple(newest) if any(rows is not None for rows in newest) else ()
