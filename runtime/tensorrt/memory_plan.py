"""How much GPU memory the caches take and where each lies: decided from the plan before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luvc_export.bundle.manifest import EngineEntry
from luvc_export.core.element_types import BY_NAME
from luvc_export.core.plan import Plan
from luvc_export.core.shapes import State
from luvc_export.errors import BundleError

#: TensorRT wants device addresses aligned to 256 bytes (``IExecutionContext.set_device_memory``, NvInferRuntime.h).
ALIGNMENT = 256


@dataclass(frozen=True)
class Region:
    """Tensors side by side in one block: the offset of each in bytes, aligned, and the size of the block."""

    offsets: dict[str, int]
    nbytes: int


def pack(sizes: Mapping[str, int]) -> Region:
    """Place tensors of ``sizes`` bytes one after another, each aligned."""
    offsets, end = {}, 0
    for name, nbytes in sizes.items():
        offsets[name] = end
        end += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return Region(offsets, end)


@dataclass(frozen=True)
class CachePart:
    """A tensor of a conversation as an engine takes it: keys, values, or a state beside them.

    Args:
        state: Which.
        itemsize: Bytes of a number.
        rows: Cached rows of its layer at most; 1 where it has no rows.
    """

    state: State
    itemsize: int
    rows: int

    @property
    def heads(self) -> int:
        """How many runs of rows there are: one a head."""
        return math.prod(self.state.shape[: (self.state.axis or 1) - 1])

    @property
    def token(self) -> int:
        """Bytes of one row of one head; all of it, where it has no rows."""
        return math.prod(self.state.shape[self.state.axis or 0 :]) * self.itemsize

    @property
    def row(self) -> int:
        """Bytes of one row of all heads."""
        return self.heads * self.token

    @property
    def nbytes(self) -> int:
        """Bytes of one conversation, full."""
        return self.rows * self.row

    def length(self, lengths: Sequence[int]) -> int:
        """Its rows, of those of each layer; 1 where it has none."""
        return 1 if self.state.axis is None else lengths[self.state.layer]


@dataclass(frozen=True)
class KvPlan:
    """Where all of a conversation lies.

    An engine that writes keys and values in place gives every other state anew: those are ``swapped``, a call
    reads one block of them and writes another. With ``concat`` all is read and written so. With ``append`` it gives
    rows that are put behind the others, and only states without rows are swapped.

    Args:
        rows: Rows a layer's cache holds at most: see ``Plan.cache_rows``.
        parts: In graph order.
        sets: Sets of caches an answer needs: ``concat`` reads one and writes the other, the other forms have one.
        text_capacity: Slots of text, the last ones of each layer; 0 where rows grow.
        appends: The engine gives new rows alone, which are copied behind what is there (``append``).
    """

    rows: tuple[int, ...]
    parts: tuple[CachePart, ...]
    sets: int
    text_capacity: int = 0
    appends: bool = False

    def is_swapped(self, part: CachePart) -> bool:
        """Whether a call reads it in one block and writes it to another, keys and values being written in place."""
        if self.appends:
            return part.state.axis is None
        return self.sets == 1 and not part.state.in_cache

    @property
    def fixed(self) -> tuple[CachePart, ...]:
        """States without rows, which begin as zeros and which every call changes."""
        return tuple(part for part in self.parts if part.state.axis is None)

    @property
    def region(self) -> Region:
        """Where each part of one conversation lies in a set, by input name."""
        return self.region_of(1)

    @property
    def swapped(self) -> Region:
        """The same of states that are swapped."""
        return self.swapped_of(1)

    @property
    def nbytes(self) -> int:
        """Bytes of the sets of one answer."""
        return self.sets * self.region.nbytes + 2 * self.swapped.nbytes

    def region_of(self, batch: int) -> Region:
        """Where each part lies when ``batch`` conversations are side by side; the first axis is theirs."""
        return pack({part.state.past: batch * part.nbytes for part in self.parts if not self.is_swapped(part)})

    def swapped_of(self, batch: int) -> Region:
        """The same of states that are swapped."""
        return pack({part.state.past: batch * part.nbytes for part in self.parts if self.is_swapped(part)})


def plan_kv(states: Sequence[State], plan: Plan, entry: EngineEntry) -> KvPlan:
    """Plan the caches of one conversation with as many images and as much text as the engines take.

    Args:
        states: All that a conversation consists of, in graph order (``Manifest.states_of``).
        plan: Says how many rows each layer keeps.
        entry: What the manifest says of the engines.

    Raises:
        BundleError: The engines' fixed capacities are not those of the plan.
    """
    rows, slots = plan.cache_rows(entry.groups, entry.text_capacity), entry.slots
    inputs = {binding.name: binding for binding in entry.decoder.inputs}
    missing = [state.past for state in states if state.past not in inputs]
    if missing:
        raise BundleError("an engine lacks a cache", where=entry.decoder.file, got=f"no input {missing[0]!r}")
    parts = []
    for state in states:
        expected = state.sizes(1, rows[state.layer] if slots else -1)[1:]
        binding = inputs[state.past]
        if binding.shape[1:] != expected:
            raise BundleError(
                "a cache of the engine does not fit the plan",
                where=f"{entry.decoder.file}: {state.past}",
                got=list(binding.shape),
                expected=["batch", *expected],
                fix="luvc-export build the engines again",
            )
        most = 1 if state.axis is None else rows[state.layer]
        parts.append(CachePart(state, BY_NAME[binding.dtype].itemsize, most))
    return KvPlan(rows, tuple(parts), 1 if slots else 2, entry.text_capacity if slots else 0, entry.kv == "append")
