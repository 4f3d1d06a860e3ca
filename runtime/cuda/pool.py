"""Memory on the GPU that is used again when nobody holds what lies in it."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from luvc_export.runtime.cuda.device import Memory


class Block:
    """Memory, and the living leases of it."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.leases: weakref.WeakSet[Lease] = weakref.WeakSet()


class Lease:
    """Says that values in ``block`` are still wanted, as long as this object lives."""

    #: Text tokens of a conversation that it reads; below every count where it is no state of one.
    text = -1

    def __init__(self, block: Block) -> None:
        self.block = block
        block.leases.add(self)


class Pool:
    """Blocks of one size, made when all others are leased.

    Args:
        allocate: Makes the memory of a block.
    """

    def __init__(self, allocate: Callable[[], Memory]) -> None:
        self._allocate = allocate
        self._blocks: list[Block] = []

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(block.memory.nbytes for block in self._blocks)

    def give_back(self) -> None:
        """Keep the blocks that are leased alone; the others' memory is given back."""
        self._blocks = [block for block in self._blocks if block.leases]

    def free(self) -> Block:
        """A block nobody leases.

        Raises:
            MachineError: There is none, and no memory for another.
        """
        for block in self._blocks:
            if not block.leases:
                return block
        self._blocks.append(Block(self._allocate()))
        return self._blocks[-1]
