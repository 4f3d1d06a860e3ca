"""Where the keys and values of rows lie that join and leave, in each form of the cache.

``inplace`` and ``append``: one block of slots, each with its own lengths, so a row writes behind its own text.
``concat``: the engine reads a dense [rows, heads, length, size] and writes one a token longer, so rows end at the same
column: text stands at the right, what is to its left is masked. Visual rows have no mask there, so rows of one batch
have equally many images.

States beside keys and values are never written in place: a step reads one block and writes another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from luvc_export.bundle.manifest import EngineEntry
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.runtime.cuda.device import Memory
from luvc_export.runtime.cuda.pool import Lease
from luvc_export.runtime.model import Array
from luvc_export.runtime.tensorrt.cache_memory import CacheMemory
from luvc_export.runtime.tensorrt.call import typed
from luvc_export.runtime.tensorrt.decoder import CacheCall, TrtDecoder
from luvc_export.runtime.tensorrt.memory_plan import CachePart


class Held(NamedTuple):
    """What the caches hold of a row: text tokens and groups of images."""

    text: int
    groups: int


class RowCaches(ABC):
    """Keys and values of rows."""

    @abstractmethod
    def takes(self, groups: int, held: Mapping[int, Held]) -> bool:
        """Whether a row with so many groups may stand beside those that are ``held``."""

    @abstractmethod
    def join(
        self, decoder: TrtDecoder, feeds: Mapping[str, Array], held: Mapping[int, Held], joining: Mapping[int, Held]
    ) -> dict[str, Array]:
        """Run the prompts of ``joining``, by slot, and keep what they leave; the outputs of the call."""

    @abstractmethod
    def step(self, held: Mapping[int, Held], batch: int) -> tuple[CacheCall, dict[str, Array]]:
        """The caches of one token more in the first ``batch`` slots, and the inputs that say what they hold."""

    @abstractmethod
    def leave(self, slot: int, held: Held) -> None:
        """Forget a row."""


class _Piece(NamedTuple):
    """A part of one conversation: block, first byte of the first head, rows of the cache, which part."""

    memory: Memory
    offset: int
    length: int
    part: CachePart


class _Blocks:
    """Copies of parts of caches."""

    def __init__(self, memory: CacheMemory, plan: Plan) -> None:
        self.gpu, self.stream, self.plan, self.kv = memory.gpu, memory.stream, plan, memory.kv

    def piece(self, memory: Memory, room: int, part: CachePart, slot: int, length: int) -> _Piece:
        """A part of conversation ``slot`` in a block with ``room`` of them, each ``length`` rows long."""
        region = (self.kv.swapped_of if self.kv.is_swapped(part) else self.kv.region_of)(room)
        return _Piece(memory, region.offsets[part.state.past] + slot * length * part.row, length, part)

    def move(self, target: _Piece, to: int, source: _Piece, start: int, count: int) -> None:
        """Copy ``count`` rows of every head from row ``start`` on to row ``to`` on."""
        token, heads = source.part.token, source.part.heads
        ends = [
            (piece.memory.address + piece.offset + first * token, piece.length * token)
            for piece, first in ((target, to), (source, start))
        ]
        self.gpu.copy_pieces(ends[0], ends[1], count * token, heads, self.stream)


class InplaceRows(RowCaches):
    """Slots of fixed capacity.

    Args:
        memory: Whose blocks are taken.
        entry: What the manifest says of the engines.
        plan: Budgets.

    Raises:
        MachineError: There is no memory for them.
    """

    def __init__(self, memory: CacheMemory, entry: EngineEntry, plan: Plan) -> None:
        self._blocks, self._entry, self._memory = _Blocks(memory, plan), entry, memory
        self._lease, pool = Lease(memory.blocks(entry.batch).free()), memory.swapped_blocks(entry.batch)
        self._swapped: list[Lease] = []
        while pool is not None and len(self._swapped) < 2:  # each is leased before the next is asked for
            self._swapped.append(Lease(pool.free()))

    def takes(self, groups: int, held: Mapping[int, Held]) -> bool:
        """Any: each row has masks of its own."""
        return True

    def join(
        self, decoder: TrtDecoder, feeds: Mapping[str, Array], held: Mapping[int, Held], joining: Mapping[int, Held]
    ) -> dict[str, Array]:
        """An empty batch runs its prompts where they stay; a row that comes later runs alone and is copied in."""
        memory, rows, room = self._lease.block.memory, self._blocks.kv.rows, self._entry.batch
        if not held:
            if self._swapped:
                self._memory.begin(self._swapped[0].block.memory, room)
            arrays_told = self._told({slot: Held(0, 0) for slot in joining}, len(joining))
            arrays_told[graph_io.TEXT_MASK][:, : feeds[graph_io.TEXT_MASK].shape[1]] = feeds[graph_io.TEXT_MASK]
            arrays = typed(self._entry, {**feeds, **arrays_told})
            visual = {graph_io.VISUAL_EMBEDS: feeds[graph_io.VISUAL_EMBEDS]}
            return decoder.enqueue(arrays | visual, {}, self._call(len(joining), {}), False, front=False).read()
        outputs, alone = decoder(feeds, None)
        ((slot, row),) = joining.items()
        for part in self._blocks.kv.parts:
            if self._blocks.kv.is_swapped(part):
                assert alone.swapped is not None
                source = self._blocks.piece(alone.swapped.block.memory, 1, part, 0, part.rows)
                target = self._blocks.piece(self._swapped[0].block.memory, room, part, slot, part.rows)
                self._blocks.move(target, 0, source, 0, part.rows)
                continue
            layer = part.state.layer
            visual_rows = rows[layer] - self._entry.text_capacity
            count = row.groups * self._blocks.plan.keep[layer]
            source = self._blocks.piece(alone.block.memory, 1, part, 0, rows[layer])
            target = self._blocks.piece(memory, room, part, slot, rows[layer])
            self._blocks.move(target, visual_rows - count, source, visual_rows - count, count + row.text)
        return outputs

    def step(self, held: Mapping[int, Held], batch: int) -> tuple[CacheCall, dict[str, Array]]:
        """See ``RowCaches.step``."""
        arrays = self._told(held, batch)
        for slot in range(batch):
            arrays[graph_io.TEXT_MASK][slot, : held[slot].text + 1 if slot in held else 1] = True
        return self._call(batch, held), arrays

    def _call(self, batch: int, held: Mapping[int, Held]) -> CacheCall:
        """A call of the first ``batch`` slots; what it writes beside keys and values is what the next one reads."""
        memory, swapped = self._lease.block.memory, None
        if self._swapped:
            swapped = self._swapped[0].block.memory, self._swapped[1].block.memory
            self._swapped.reverse()
        rows = [held.get(slot, Held(0, 0)) for slot in range(batch)]
        return CacheCall(memory, memory, self._entry.batch, batch, self._blocks.kv.rows, swapped, rows)

    def leave(self, slot: int, held: Held) -> None:
        """Clear the slot: a broken row leaves no NaN behind, which no mask would hide."""
        blocks = self._blocks
        for part in blocks.kv.parts:
            memory = (self._swapped[0] if blocks.kv.is_swapped(part) else self._lease).block.memory
            piece = blocks.piece(memory, self._entry.batch, part, slot, part.rows)
            blocks.gpu.clear(piece.memory.address + piece.offset, part.nbytes, blocks.stream)

    def _told(self, held: Mapping[int, Held], batch: int) -> dict[str, Array]:
        counts = [held.get(slot, Held(0, 0)) for slot in range(batch)]
        return {
            graph_io.PAST_TEXT: np.array([row.text for row in counts], np.int64),
            graph_io.PAST_GROUPS: np.array([row.groups for row in counts], np.int64),
            graph_io.TEXT_MASK: np.zeros((batch, self._entry.text_capacity), np.bool_),
        }


class ConcatRows(RowCaches):
    """Two blocks in turns, every row's text at the right end of ``columns``.

    Arguments: see ``InplaceRows``.
    """

    def __init__(self, memory: CacheMemory, entry: EngineEntry, plan: Plan) -> None:
        self._blocks, self._entry, self._memory = _Blocks(memory, plan), entry, memory
        first = Lease(memory.blocks(entry.batch).free())
        self._leases = [first, Lease(memory.blocks(entry.batch).free())]
        self._columns = self._groups = 0

    def takes(self, groups: int, held: Mapping[int, Held]) -> bool:
        """Equally many images."""
        return all(row.groups == groups for row in held.values())

    def join(
        self, decoder: TrtDecoder, feeds: Mapping[str, Array], held: Mapping[int, Held], joining: Mapping[int, Held]
    ) -> dict[str, Array]:
        """Run the prompts beside the others, then bring all to the same right end."""
        longest, blocks = feeds[graph_io.INPUT_IDS].shape[1], self._blocks
        self._groups = next(iter(joining.values())).groups
        if held:
            outputs, alone = decoder(feeds, None)
            source, room = alone.block.memory, 1
        else:
            alone, source, room = None, self._leases[0].block.memory, self._entry.batch
            visual = {graph_io.VISUAL_EMBEDS: feeds[graph_io.VISUAL_EMBEDS]}
            arrays = typed(self._entry, feeds) | visual
            before = self._leases[1].block.memory
            self._memory.begin(before, room)
            caches = CacheCall(before, source, room, len(joining), (0,) * blocks.plan.cached)
            outputs = decoder.enqueue(arrays, {}, caches, False, front=False).read()
        new = {slot: (source, room, index, longest, 0) for index, slot in enumerate(joining)}
        self._settle({**held, **joining}, new)
        del alone
        return outputs

    def step(self, held: Mapping[int, Held], batch: int) -> tuple[CacheCall, dict[str, Array]]:
        """See ``RowCaches.step``."""
        if self._columns == self._entry.text_capacity:
            self._settle(held, {})
        mask = np.zeros((batch, self._columns + 1), np.bool_)
        for slot in range(batch):
            mask[slot, self._columns - (held[slot].text if slot in held else 0) :] = True
        lengths = tuple(self._groups * keep + self._columns for keep in self._blocks.plan.keep)
        self._columns += 1
        self._leases.reverse()
        target, source = (lease.block.memory for lease in self._leases)
        return CacheCall(source, target, self._entry.batch, batch, lengths), {graph_io.TEXT_MASK: mask}

    def leave(self, slot: int, held: Held) -> None:
        """Nothing: what a row leaves behind is moved away when the next one joins."""

    def _settle(self, held: Mapping[int, Held], new: Mapping[int, tuple[Memory, int, int, int, int]]) -> None:
        """Copy all rows to the other block, with as many columns as the longest needs.

        ``new`` says of rows that are not in the block yet where they are: block, its room, place in it, columns there,
        and the first column of their text.
        """
        columns, blocks, room = max(row.text for row in held.values()), self._blocks, self._entry.batch
        source, target = (lease.block.memory for lease in self._leases)
        blocks.gpu.clear(target.address, target.nbytes, blocks.stream)  # no mask hides what a broken row left
        here = {slot: (source, room, slot, self._columns, self._columns - row.text) for slot, row in held.items()}
        for slot, (memory, held_room, index, width, first) in {**here, **new}.items():
            text = held[slot].text
            for part in blocks.kv.parts:
                visual = self._groups * blocks.plan.keep[part.state.layer]
                if part.state.axis is None:
                    old = blocks.piece(memory, held_room, part, index, 1)
                    blocks.move(blocks.piece(target, room, part, slot, 1), 0, old, 0, 1)
                    continue
                old = blocks.piece(memory, held_room, part, index, visual + width)
                moved = blocks.piece(target, room, part, slot, visual + columns)
                blocks.move(moved, 0, old, 0, visual)
                blocks.move(moved, visual + columns - text, old, visual + first, text)
        self._columns = columns
        self._leases.reverse()
