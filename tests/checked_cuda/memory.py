"""Memory of the GPU and page-locked memory of the host: where it lies, what of it was written, who is at work on it."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

#: CUDA aligns device memory to it; page-locked memory begins at a page.
ALIGNMENT = 256
#: What memory holds before it is written: as float32 a NaN, as int64 a huge number.
FRESH = 0xFF

Kind = Literal["device", "pinned"]
Access = Literal["reads", "writes"]


class Violation(AssertionError):  # noqa: N818  (it is told, never handled)
    """Something a CUDA driver does not forgive, or forgives on some machines only."""


@dataclass(frozen=True)
class Span:
    """Bytes that work reads or writes."""

    access: Access
    kind: Kind
    address: int
    nbytes: int


@dataclass
class Use:
    """Bytes of a block that work of a stream is at, until the host knows that it is done."""

    access: Access
    begin: int
    end: int
    stream: Any
    position: int
    what: str


@dataclass(eq=False)
class Block:
    """An allocation."""

    kind: Kind
    address: int
    nbytes: int
    bytes: NDArray[np.uint8]
    number: int
    defined: NDArray[np.bool_]
    uses: list[Use] = field(default_factory=list)
    freed: bool = False

    def __str__(self) -> str:
        return f"{self.kind} memory {self.number} ({self.nbytes} bytes)"


class Heap:
    """All allocations, dead ones too: an address may be given out again.

    Args:
        capacity: Bytes of device memory.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self._live: list[Block] = []
        self._starts: list[int] = []
        self._numbers = 0
        #: Keeps memory of dead blocks, so that a late access is told and not a crash.
        self._dead: list[Block] = []

    @property
    def live(self) -> list[Block]:
        """Allocations nobody gave back."""
        return list(self._live)

    def allocate(self, kind: Kind, nbytes: int) -> Block:
        """New memory, full of bytes nobody expects."""
        raw = np.full(nbytes + ALIGNMENT, FRESH, np.uint8)
        shift = -raw.ctypes.data % ALIGNMENT
        self._numbers += 1
        block = Block(
            kind,
            raw.ctypes.data + shift,
            nbytes,
            raw[shift : shift + nbytes],
            self._numbers,
            np.zeros(nbytes, bool),
        )
        place = bisect.bisect(self._starts, block.address)
        self._starts.insert(place, block.address)
        self._live.insert(place, block)
        self.used += nbytes if kind == "device" else 0
        return block

    def release(self, block: Block) -> None:
        """Give memory back."""
        place = bisect.bisect(self._starts, block.address) - 1
        del self._live[place], self._starts[place]
        block.freed = True
        block.bytes[:] = FRESH
        self.used -= block.nbytes if block.kind == "device" else 0
        # The newest dead stay, so that use after free meets them under their own address.
        self._dead = [*self._dead[-31:], block]

    def at(self, kind: Kind, address: int, nbytes: int, what: str) -> tuple[Block, int]:
        """The block that holds all of these bytes, and where in it they begin.

        Raises:
            Violation: There is none.
        """
        place = bisect.bisect(self._starts, address) - 1
        block = self._live[place] if place >= 0 else None
        if block is None or address >= block.address + max(block.nbytes, 1):
            dead = next((b for b in reversed(self._dead) if b.address <= address < b.address + b.nbytes), None)
            raise Violation(f"{what}: {f'{dead} was given back' if dead else f'nothing is allocated at {address:#x}'}")
        if block.kind != kind:
            raise Violation(f"{what}: {block} where {kind} memory is expected")
        if address + nbytes > block.address + block.nbytes:
            room = block.address + block.nbytes - address
            raise Violation(f"{what}: {nbytes} bytes of which {room} lie in {block}")
        return block, address - block.address

    def start_of(self, kind: Kind, address: int, what: str) -> Block:
        """The block that begins at ``address``.

        Raises:
            Violation: There is none of this kind.
        """
        block, offset = self.at(kind, address, 0, what)
        if offset:
            raise Violation(f"{what}: {address:#x} lies inside {block} and does not begin it")
        return block
