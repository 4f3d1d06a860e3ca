"""Caches on the GPU that keep the promise of ``backend.Cache``: one that a caller still holds never changes.

An engine either writes its new rows behind the old ones in the same memory (``inplace``) or reads one block of caches
and writes another (``concat``). So that a state can be continued more than once, a block is written only where no
living state would notice: behind the last row of every state that lies in it, or where none lies. Continuing an old
state while a later one is still held copies the block first. An ordinary answer drops each state as it makes the next
and never copies. What a model keeps beside keys and values is never written in place: it lies in a block of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from luvc_export.runtime.cuda.device import Memory
from luvc_export.runtime.cuda.pool import Block, Lease, Pool


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
