"""GPU memory that conversations live in: it stays where it is while a plan's engines are unloaded and loaded again.

Blocks are leased by states and by rows of a batch. What nobody leases goes with the engines.

A cache that a caller still holds never changes (``model.Cache``). An engine either writes its new rows behind the old
ones in the same memory (``inplace``) or reads one block of caches and writes another (``concat``). So that a state can
be continued more than once, a block is written only where no living state would notice: behind the last row of every
state that lies in it, or where none lies. Continuing an old state while a later one is still held copies the block
first. An ordinary answer drops each state as it makes the next and never copies. What a model keeps beside keys and
values is never written in place: it lies in a block of its own.

Engines whose caches are codes read slots of fixed capacity and give what they add alone (docs/surgery.md): new rows are
copied behind those that are there once the engine is done, on its stream, so the next call sees them; the copies go
elsewhere at every step, so no CUDA graph has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from luvc_export.bundle.manifest import Footprint
from luvc_export.core.element_types import BY_NAME
from luvc_export.core.plan import Plan
from luvc_export.errors import MachineError
from luvc_export.runtime.cuda.device import Buffer, Gpu, Memory
from luvc_export.runtime.cuda.tensor import Block, Lease, Pool
from luvc_export.runtime.memory import SHORT_ON_GPU, gib
from luvc_export.runtime.tensorrt.memory_plan import CachePart, KvPlan, Region, pack


class TrtCache(Lease):
    """A state of the caches.

    Args:
        block: Where they lie.
        lengths: Rows of each layer.
        text: Text tokens held.
        groups: Groups held.
        batch: Conversations side by side, padded to equal lengths.
        swapped: Block with the states that lie beside keys and values, if any do.
    """

    #: Of caches of other back-ends (``HostCache.kind``) it is another.
    kind = "blocks of GPU memory"

    def __init__(
        self,
        block: Block,
        lengths: tuple[int, ...],
        text: int,
        groups: int,
        batch: int = 1,
        swapped: Block | None = None,
    ) -> None:
        self.lengths, self.text, self.groups, self.batch = lengths, text, groups, batch
        self.swapped = None if swapped is None else Lease(swapped)
        super().__init__(block)

    @property
    def nbytes(self) -> int:
        """Bytes of its blocks, which have room for the whole conversation."""
        return self.block.memory.nbytes + (self.swapped.block.memory.nbytes if self.swapped else 0)


def behind(pool: Pool, cache: TrtCache, copy: Callable[[Memory, Memory], None]) -> Block:
    """A block with the rows of ``cache`` that may be written behind them: its own, or a copy.

    Args:
        pool: Blocks of caches.
        cache: The state to continue.
        copy: Copies all of one memory to another, in stream order.

    Raises:
        MachineError: There is no memory for a copy.
    """
    others = [lease for lease in cache.block.leases if lease is not cache]
    if all(other.text < cache.text for other in others):
        return cache.block
    block = pool.free()
    copy(block.memory, cache.block.memory)
    return block


Resident = tuple[int, tuple[int, ...]]


class CacheMemory:
    """Blocks of caches, blocks of states beside them, and the tokens that the newest call chose.

    Args:
        gpu: Where all lies.
        stream: What is written there is written on it.
        kv: Sizes.
        batch: Conversations of a call at most.

    Attributes:
        number: Calls of the decoder so far, those before an unload among them: tokens of an older one are gone.
    """

    def __init__(self, gpu: Gpu, stream: int, kv: KvPlan, batch: int) -> None:
        self.gpu, self.stream, self.kv, self._batch = gpu, stream, kv, batch
        self._pools: dict[int, Pool] = {}
        self._swapped: dict[int, Pool] = {}
        self._newest: Memory | None = None
        self.number = 0

    def blocks(self, batch: int = 1) -> Pool:
        """Blocks with the caches of ``batch`` conversations side by side."""
        if batch not in self._pools:
            self._pools[batch] = Pool(partial(_cleared, self.gpu, self.stream, self.kv.region_of(batch).nbytes))
        return self._pools[batch]

    def swapped_blocks(self, batch: int = 1) -> Pool | None:
        """Blocks with the states of ``batch`` conversations that lie beside keys and values, if any do."""
        nbytes = self.kv.swapped_of(batch).nbytes
        if nbytes and batch not in self._swapped:
            self._swapped[batch] = Pool(partial(_cleared, self.gpu, self.stream, nbytes))
        return self._swapped.get(batch)

    def begin(self, memory: Memory, room: int) -> None:
        """Let the states without rows of ``room`` conversations begin as zeros."""
        regions = {**self.kv.region_of(room).offsets, **self.kv.swapped_of(room).offsets}
        for part in self.kv.fixed:
            self.gpu.clear(memory.address + regions[part.state.past], room * part.nbytes, self.stream)

    def copy(self, target: Memory, source: Memory) -> None:
        """Copy all of one block to another, in stream order."""
        self.gpu.copy(target.address, source.address, source.nbytes, self.stream)

    def newest(self, batch: int) -> Resident:
        """Where the tokens lie that the last call chose for each of ``batch`` rows, as ``input_ids``.

        Raises:
            MachineError: There is no memory for them.
        """
        if self._newest is None:
            nbytes = self._batch * BY_NAME["int64"].itemsize
            self._newest = self.gpu.allocate(nbytes, "the newest tokens")
        return self._newest.address, (batch, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, leased or not."""
        return sum(pool.nbytes for pool in (*self._pools.values(), *self._swapped.values()))

    def check_fits(self, footprint: Footprint, where: str) -> None:
        """Refuse engines that cannot fit before any is read, by the prediction made when they were built.

        Caches of conversations that were there before an unload are there still.

        Raises:
            MachineError: They do not fit into what is free.
        """
        free, total = self.gpu.memory()
        footprint = replace(footprint, kv=max(0, footprint.kv - self.nbytes))
        needed = footprint.peak if self.gpu.info.integrated else footprint.running
        if needed > free:
            raise MachineError(
                SHORT_ON_GPU,
                where=where,
                got=f"{gib(free)} of {gib(total)} free",
                expected=f"{gib(needed)} for weights, caches and activations",
                fix="close other programs on the GPU, or use engines with fewer images, less text or lower budgets",
            )

    def give_back(self) -> None:
        """Free the blocks that nobody leases. Tokens that the last call chose on the GPU are forgotten."""
        for pool in (*self._pools.values(), *self._swapped.values()):
            pool.give_back()
        self._newest, self.number = None, self.number + 1


def _cleared(gpu: Gpu, stream: int, nbytes: int) -> Memory:
    memory = gpu.allocate(nbytes, "caches and states")
    # Attention gives masked slots no weight, but 0 times a NaN of unwritten memory is NaN.
    gpu.clear(memory.address, memory.nbytes, stream)
    return memory


@dataclass(frozen=True)
class NewRows:
    """What one call adds.

    Args:
        kv: Where caches lie.
        plan: Says how many visual rows of a group each layer keeps.
        batch: Conversations of the call.
        groups: New groups of each.
        text: New text tokens of each, padding included.
    """

    kv: KvPlan
    plan: Plan
    batch: int
    groups: int
    text: int

    @property
    def parts(self) -> tuple[CachePart, ...]:
        """States that get rows."""
        return tuple(part for part in self.kv.parts if not self.kv.is_swapped(part))

    def count(self, part: CachePart) -> int:
        """New rows of a part."""
        return self.groups * self.plan.keep[part.state.layer] + self.text

    @property
    def region(self) -> Region:
        """Where the engine writes each part's new rows [batch, heads, count, ...], by output name."""
        return pack({part.state.present: self.batch * self.count(part) * part.row for part in self.parts})

    def place(self, buffer: Buffer) -> dict[str, int]:
        """Reserve room for them; their addresses by output name."""
        region = self.region
        buffer.reserve(region.nbytes)
        return {name: buffer.address + offset for name, offset in region.offsets.items()}

    def first(self, part: CachePart, text: int) -> int:
        """The slot of the first new row behind ``text`` tokens: visual rows end where the slots of text begin."""
        visual = part.rows - self.kv.text_capacity
        return visual - self.groups * self.plan.keep[part.state.layer] + text

    def put_behind(
        self, gpu: Gpu, stream: int, buffer: Buffer, held: Sequence[tuple[int, int]], caches: Mapping[str, int]
    ) -> None:
        """Copy them to their slots.

        Args:
            gpu: Where all lies.
            stream: Of the engine.
            buffer: What ``place`` reserved.
            held: Text tokens and groups of each conversation before the call.
            caches: Address of each part of the first conversation, by output name.
        """
        offsets = self.region.offsets
        starts = {text for text, _ in held}
        together = len(starts) == 1
        for part in self.parts:
            name, count = part.state.present, self.count(part)
            for number, (text, _) in enumerate(held[:1] if together else held):
                target = caches[name] + number * part.nbytes + self.first(part, text) * part.token
                source = buffer.address + offsets[name] + number * count * part.row
                pieces = part.heads * (self.batch if together else 1)
                gpu.copy_pieces(
                    (target, part.rows * part.token), (source, count * part.token), count * part.token, pieces, stream
                )
