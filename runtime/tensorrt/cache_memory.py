"""GPU memory that conversations live in: it stays where it is while a plan's engines are unloaded and loaded again.

Blocks are leased by states and by rows of a batch. What nobody leases goes with the engines.

A cache that a caller still holds never changes (``model.Cache``). An engine either writes its new rows behind the old
ones in the same memory (``inplace``) or reads one block of caches and writes another (``concat``). So that a state can
be continued more than once, a block is written only where no living state would notice: behind the last row of every
state that lies in it, or where none lies. Continuing an old state while a later one is still held copies the block
first. An ordinary answer drops each state as it makes the next and never copies. What a model keeps beside keys and
values is never written in place: it lies in a block of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from luvc_export.bundle.manifest import Footprint
from luvc_export.core.element_types import BY_NAME
from luvc_export.errors import MachineError
from luvc_export.runtime.cuda.device import Gpu, Memory
from luvc_export.runtime.cuda.pool import Block, Lease, Pool
from luvc_export.runtime.memory import SHORT_ON_GPU, gib
from luvc_export.runtime.tensorrt.memory_plan import KvPlan


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
