"""GPU memory that conversations live in: it stays where it is while a plan's engines are unloaded and loaded again.

Blocks are leased by states and by rows of a batch. What nobody leases goes with the engines.
"""

from __future__ import annotations

from functools import partial

from luvc_export.core.element_types import BY_NAME
from luvc_export.runtime.cuda.device import Gpu, Memory
from luvc_export.runtime.cuda.pool import Pool
from luvc_export.runtime.tensorrt.memory_plan import KvPlan

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
        self._gpu, self._stream, self._kv, self._batch = gpu, stream, kv, batch
        self._pools: dict[int, Pool] = {}
        self._swapped: dict[int, Pool] = {}
        self._newest: Memory | None = None
        self.number = 0

    def blocks(self, batch: int = 1) -> Pool:
        """Blocks with the caches of ``batch`` conversations side by side."""
        if batch not in self._pools:
            self._pools[batch] = Pool(partial(_cleared, self._gpu, self._stream, self._kv.region_of(batch).nbytes))
        return self._pools[batch]

    def swapped_blocks(self, batch: int = 1) -> Pool | None:
        """Blocks with the states of ``batch`` conversations that lie beside keys and values, if any do."""
        nbytes = self._kv.swapped_of(batch).nbytes
        if nbytes and batch not in self._swapped:
            self._swapped[batch] = Pool(partial(_cleared, self._gpu, self._stream, nbytes))
        return self._swapped.get(batch)

    def begin(self, memory: Memory, room: int) -> None:
        """Let the states without rows of ``room`` conversations begin as zeros."""
        regions = {**self._kv.region_of(room).offsets, **self._kv.swapped_of(room).offsets}
        for part in self._kv.fixed:
            self._gpu.clear(memory.address + regions[part.state.past], room * part.nbytes, self._stream)

    def copy(self, target: Memory, source: Memory) -> None:
        """Copy all of one block to another, in stream order."""
        self._gpu.copy(target.address, source.address, source.nbytes, self._stream)

    def newest(self, batch: int) -> Resident:
        """Where the tokens lie that the last call chose for each of ``batch`` rows, as ``input_ids``.

        Raises:
            MachineError: There is no memory for them.
        """
        if self._newest is None:
            nbytes = self._batch * BY_NAME["int64"].itemsize
            self._newest = self._gpu.allocate(nbytes, "the newest tokens")
        return self._newest.address, (batch, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, leased or not."""
        return sum(pool.nbytes for pool in (*self._pools.values(), *self._swapped.values()))

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
