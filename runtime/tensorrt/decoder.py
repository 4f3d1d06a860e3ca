"""The decoder engine: prompts on one slot, single tokens on another, caches in blocks that are planned beforehand."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from luvc_export.bundle.manifest import MOST_SETS, EngineEntry
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.runtime.cuda.device import Buffer, Memory
from luvc_export.runtime.cuda.pool import Block, Lease, Pool
from luvc_export.runtime.cuda.tensor import GpuTensor, to_engine, to_host
from luvc_export.runtime.model import Array, Cache, PendingToken
from luvc_export.runtime.tensorrt.cache_memory import CacheMemory, Resident, TrtCache, behind
from luvc_export.runtime.tensorrt.call import (
    check_room,
    check_shapes,
    decode_profile,
    decoder_arrays,
    prefill_profile,
    samples_tokens,
)
from luvc_export.runtime.tensorrt.execution_slot import Call, ExecutionSlot
from luvc_export.runtime.tensorrt.factors import FactorSet, split_feeds
from luvc_export.runtime.tensorrt.memory_plan import CachePart
from luvc_export.runtime.tensorrt.new_rows import NewRows


class CacheCall(NamedTuple):
    """The caches of one call.

    Args:
        source: Block that is read.
        target: Block that is written, ``source`` itself where caches are written in place.
        room: Conversations a block has room for.
        batch: Conversations of this call, the first of the block.
        lengths: Rows of each layer's cache, as the engine takes them.
        swapped: Blocks with the states beside keys and values that are written in place, read and written; else None.
        held: Text tokens and groups that each conversation's caches hold already; where new rows are put behind them.
    """

    source: Memory
    target: Memory
    room: int
    batch: int
    lengths: tuple[int, ...]
    swapped: tuple[Memory, Memory] | None = None
    held: Sequence[tuple[int, int]] = ()


class TrtDecoder:
    """Runs the decoder engine.

    Args:
        prefill: Takes prompts.
        decode: Makes the slots that take single tokens: several, which take turns, where states lie in two places by
            turns. A CUDA graph has one place of everything, so each set of adapters has slots of its own.
        entry: What the manifest says of the engines.
        plan: Says how many rows each layer keeps.
        memory: Blocks of caches, which are there before and after this decoder; where, and on which stream, it runs.
    """

    def __init__(
        self,
        prefill: ExecutionSlot,
        decode: Callable[[], Sequence[ExecutionSlot]],
        entry: EngineEntry,
        plan: Plan,
        memory: CacheMemory,
    ) -> None:
        self._gpu, self._stream, self._entry, self._plan, self._kv = memory.gpu, memory.stream, entry, plan, memory.kv
        self._prefill, self._open, self._idle = prefill, decode, decode()
        self._decode: OrderedDict[int, Sequence[ExecutionSlot]] = OrderedDict()
        self._kinds = {binding.name: binding.dtype for binding in entry.decoder.inputs}
        self._turns: dict[int, int] = {}
        self._memory = memory
        self._new = Buffer(memory.gpu, memory.stream, "new rows of caches")

    @property
    def samples(self) -> bool:
        """The engine gives its most likely next token."""
        return samples_tokens(self._entry)

    def __call__(self, feeds: Mapping[str, Array], cache: Cache | None) -> tuple[dict[str, Array], TrtCache]:
        """See ``TrtBackend.decode``."""
        call, after = self._start(feeds, cache, None, front=False)
        return call.read(), after

    def sample(
        self, feeds: Mapping[str, Array], cache: Cache | None, after: TrtToken | None
    ) -> tuple[TrtToken, TrtCache]:
        """See ``TrtBackend.sample``."""
        if not self.samples:
            raise UsageError(
                "these engines pick no tokens",
                where=self._entry.decoder.file,
                fix=f"luvc-export build --target {self._entry.target} again, or take the logits of decode",
            )
        call, state = self._start(feeds, cache, after, front=True)
        return TrtToken(call, self._memory, self._memory.number), state

    def _start(
        self, feeds: Mapping[str, Array], cache: Cache | None, after: TrtToken | None, front: bool
    ) -> tuple[Call, TrtCache]:
        if cache is not None and cache.kind != TrtCache.kind:
            raise UsageError("this cache is of another back-end", where="cache", got=type(cache).__name__)
        groups, (batch, text) = feeds[graph_io.VISUAL_EMBEDS].shape[1], feeds[graph_io.INPUT_IDS].shape
        check_room(self._entry, cache, groups, text)
        feeds, resident = self._token(feeds, after)
        slots, blocks = self._entry.slots, self._memory.blocks(batch)
        target = behind(blocks, cache, self._memory.copy) if slots and cache else blocks.free()
        lease, single = Lease(target), not groups and text == 1
        source = self._source(blocks, target, cache, batch)
        swapped = self._swapped_blocks(cache, batch)
        lengths = self._kv.rows if slots else cache.lengths if cache else (0,) * self._plan.cached
        arrays = decoder_arrays(self._entry, feeds, cache)
        visual = {graph_io.VISUAL_EMBEDS: feeds[graph_io.VISUAL_EMBEDS]}
        memories = None if swapped is None else (swapped[0].block.memory, swapped[1].block.memory)
        held = [(cache.text, cache.groups) if cache else (0, 0)] * batch
        caches = CacheCall(source.memory, target.memory, batch, batch, lengths, memories, held)
        call = self.enqueue(arrays | visual, resident, caches, single, front)
        groups, text = groups + (cache.groups if cache else 0), text + (cache.text if cache else 0)
        rows, written = self._plan.cache_rows(groups, text), None if swapped is None else swapped[1].block
        state = TrtCache(target, rows, text, groups, batch, written)
        del lease, swapped
        return call, state

    def _source(self, blocks: Pool, target: Block, cache: TrtCache | None, batch: int) -> Block:
        """The block that a call reads: where a conversation begins, the zeros that states begin as."""
        if self._entry.slots:
            return target
        if cache is not None:
            return cache.block
        if not self._kv.fixed:
            return target
        source = blocks.free()
        self._memory.begin(source.memory, batch)
        return source

    def _swapped_blocks(self, cache: TrtCache | None, batch: int) -> tuple[Lease, Lease] | None:
        """Blocks that a call reads and writes beside keys and values, if there are any."""
        pool = self._memory.swapped_blocks(batch)
        if pool is None:
            return None
        if cache is not None:
            assert cache.swapped is not None
            return cache.swapped, Lease(pool.free())
        source = Lease(pool.free())
        self._memory.begin(source.block.memory, batch)
        return source, Lease(pool.free())

    def enqueue(
        self,
        arrays: Mapping[str, Array],
        resident: Mapping[str, Resident],
        caches: CacheCall,
        single: bool,
        front: bool,
    ) -> Call:
        """Put a call on the stream.

        Args:
            arrays: Inputs on the host, caches left out; ``visual_embeds`` and factors may lie on the GPU.
            resident: Inputs on the GPU.
            caches: What is read and written.
            single: One token a row: the profile for those takes it.
            front: Bring the chosen tokens alone to the host.

        Raises:
            UsageError: Shapes that the engines do not take.
        """
        (feeds, factors), lying = split_feeds(arrays), dict(resident)
        if graph_io.LORA_ROWS in self._kinds and graph_io.LORA_ROWS not in feeds:
            feeds[graph_io.LORA_ROWS], factors = np.zeros((caches.batch, 0), np.float32), self._empty_slots
        if factors is not None:
            lying |= {name: factors.place(name) for name in factors.shapes}
        visual, dtype = feeds.pop(graph_io.VISUAL_EMBEDS), self._kinds[graph_io.VISUAL_EMBEDS]
        if isinstance(visual, GpuTensor) and visual.gpu is self._gpu and visual.dtype_name == dtype:
            lying[graph_io.VISUAL_EMBEDS] = (visual.address, visual.shape)
        else:
            feeds[graph_io.VISUAL_EMBEDS] = to_engine(np.asarray(visual), dtype)
        present = {}
        for part, offset, read, written in self._places(caches):
            past = part.state.past
            lying[past] = (read + offset, part.state.sizes(caches.batch, part.length(caches.lengths)))
            present[part.state.present] = written + offset
        file = self._entry.decoder
        profile = (decode_profile if single else prefill_profile)(file)
        shapes = {name: tuple(array.shape) for name, array in feeds.items()}
        shapes |= {name: shape for name, (_, shape) in lying.items()}
        check_shapes(file, profile, shapes, factors.shapes if factors else ())  # theirs are as wide as ``lora_rows``
        copies = {graph_io.NEXT_TOKEN: self._memory.newest(caches.batch)[0]} if self.samples else {}
        self._memory.number += 1
        slot = self._slot(caches, factors.address if factors else 0) if single else self._prefill
        if self._kv.appends:
            tokens = feeds[graph_io.INPUT_IDS].shape if graph_io.INPUT_IDS in feeds else lying[graph_io.INPUT_IDS][1]
            new = NewRows(self._kv, self._plan, caches.batch, visual.shape[1], tokens[1])
            call = slot.start(
                feeds,
                lying,
                lambda _: present | new.place(self._new),
                copies,
                front,
                lambda: new.put_behind(self._gpu, self._stream, self._new, caches.held, present),
            )
        else:
            call = slot.start(feeds, lying, lambda _: present, copies, front)
        if factors is not None:
            factors.end_read()
        return call

    @cached_property
    def _empty_slots(self) -> FactorSet:
        """What calls read that say nothing of adapters."""
        empty = {
            item.name: np.zeros([max(0, size) for size in item.shape], np.float32)
            for item in self._entry.decoder.inputs
            if graph_io.is_factor(item.name)
        }
        return FactorSet(self._gpu, self._stream, empty, self._kinds)

    def _slot(self, caches: CacheCall, factors: int) -> ExecutionSlot:
        """Each slot's graph has the same addresses: blocks that are written by turns have slots by turns.

        So have the sets of adapters that were read last, by the address of their ``factors``.
        """
        if factors not in self._decode:
            if len(self._decode) >= MOST_SETS:
                _, self._idle = self._decode.popitem(last=False)
            self._decode[factors], self._idle = self._idle or self._open(), ()
        self._decode.move_to_end(factors)
        first, *others = self._decode[factors]
        if not others or caches.swapped is None:
            return first
        turn = self._turns.setdefault(caches.swapped[1].address, len(self._turns))
        return (first, *others)[turn % (1 + len(others))]

    def _places(self, caches: CacheCall) -> Iterator[tuple[CachePart, int, int, int]]:
        """Each part, its offset in a block, and the addresses of the blocks with it that are read and written."""
        region, apart = self._kv.region_of(caches.room), self._kv.swapped_of(caches.room)
        for part in self._kv.parts:
            if self._kv.is_swapped(part):
                assert caches.swapped is not None
                yield part, apart.offsets[part.state.past], caches.swapped[0].address, caches.swapped[1].address
            else:
                yield part, region.offsets[part.state.past], caches.source.address, caches.target.address

    def _token(
        self, feeds: Mapping[str, Array], after: TrtToken | None
    ) -> tuple[Mapping[str, Array], dict[str, tuple[int, tuple[int, ...]]]]:
        """Feeds, and where ``input_ids`` lies if it is the token that the last call chose on the GPU."""
        if after is None:
            return feeds, {}
        if after.memory is self._memory and after.number == self._memory.number:
            others = {name: array for name, array in feeds.items() if name != graph_io.INPUT_IDS}
            return others, {graph_io.INPUT_IDS: self._memory.newest(1)}
        return {**feeds, graph_io.INPUT_IDS: np.array([[after.read()[0]]], np.int64)}, {}

    def states(self, cache: TrtCache) -> list[Array]:
        """See ``TrtBackend.states``."""
        lying = [(cache, self._kv.region)] + ([(cache.swapped, self._kv.swapped)] if cache.swapped else [])
        raw = [
            (np.asarray(GpuTensor(self._gpu, lease, (region.nbytes,), "uint8", self._stream)), region.offsets)
            for lease, region in lying
        ]
        slots = self._entry.slots
        empty = self._plan.cache_rows(self._entry.groups - cache.groups, 0)
        arrays = []
        for part in self._kv.parts:
            layer, axis = part.state.layer, part.state.axis
            block, offsets = raw[self._kv.is_swapped(part)]
            shape = part.state.sizes(1, self._kv.rows[layer] if slots else cache.lengths[layer])
            start, nbytes = offsets[part.state.past], math.prod(shape) * part.itemsize
            values = to_host(block[start : start + nbytes], self._kinds[part.state.past], shape)
            if axis is not None and slots:  # visual rows end where the slots of text begin (docs/surgery.md)
                values = values.take(range(empty[layer], empty[layer] + cache.lengths[layer]), axis)
            arrays.append(values)
        return arrays


class TrtToken(PendingToken):
    """``PendingToken`` of the TensorRT back-end.

    Args:
        call: Brings it up.
        memory: Where the tokens lie that a decoder's newest call chose.
        number: Of the call, as they are counted there: only the newest token still lies on the GPU.
    """

    def __init__(self, call: Call, memory: CacheMemory, number: int) -> None:
        self._call, self.memory, self.number = call, memory, number

    def read(self) -> tuple[int, float]:
        """See ``PendingToken.read``."""
        outputs = self._call.read()
        return int(outputs[graph_io.NEXT_TOKEN][0, 0]), float(outputs[graph_io.NEXT_LOGIT][0, 0])
