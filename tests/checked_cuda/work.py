"""Work of streams: put off until the host waits for it, checked when it is put there and again when it runs.

Work on one stream runs in order. Work on two streams, and what the host does, is ordered only where the host waited:
this driver table has no call that makes a stream wait for another. Two uses of the same bytes that are not ordered, one
of them a write, are a violation however the machine would run them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from checked_cuda.memory import Block, Heap, Span, Use, Violation

#: What a page-locked target holds between the call that asks for a copy and the copy.
UNDER_WAY = 0xEE


@dataclass
class Work:
    """One operation.

    Attributes:
        what: In words.
        spans: Bytes it reads and writes.
        run: Does it.
        needs_values: Whether what it reads must have been written.
        copies: Target span and source span of a copy: bytes nobody wrote stay so.
    """

    what: str
    spans: list[Span]
    run: Callable[[], object]
    needs_values: bool = False
    copies: tuple[Span, Span] | None = None
    blocks: list[tuple[Block, int]] = field(default_factory=list)
    source_sum: int | None = None

    def resolve(self, heap: Heap) -> None:
        """Say where its bytes lie, once.

        Raises:
            Violation: They do not lie in one allocation of their kind.
        """
        self.blocks = [
            heap.at(span.kind, span.address, span.nbytes, f"{self.what} {span.access}") for span in self.spans
        ]

    def copy(self) -> Work:
        """The same work again, of a graph."""
        return Work(self.what, self.spans, self.run, self.needs_values, self.copies, self.blocks)


class Stream:
    """Work in order."""

    #: Work that is being done now; one after another on this one machine.
    running = 0

    def __init__(self, number: int) -> None:
        self.number = number
        self.capturing: list[Work] | None = None
        self.queue: list[tuple[int, Work]] = []
        self.put = 0
        #: How much of it the host knows to be done.
        self.known = 0

    def __str__(self) -> str:
        return f"stream {self.number}"

    def add(self, work: Work) -> None:
        """Put ``work`` at the end.

        Raises:
            Violation: It is not ordered behind other work on the same bytes, or they are gone.
        """
        self.put += 1
        for span, (block, offset) in zip(work.spans, work.blocks, strict=True):
            if block.freed:
                raise Violation(f"{work.what} {span.access} {block}, which was given back")
            block.uses = pending(block)
            for use in block.uses:
                apart = use.end <= offset or offset + span.nbytes <= use.begin
                if use.stream is not self and not apart and "writes" in (use.access, span.access):
                    raise Violation(
                        f"{work.what} on {self} {span.access} {block}, which {use.what} on {use.stream} {use.access};"
                        " nothing orders the two"
                    )
            block.uses.append(Use(span.access, offset, offset + span.nbytes, self, self.put, work.what))
        if work.copies is not None:
            target, source = work.copies
            held = dict(zip(map(id, work.spans), work.blocks, strict=True))
            if source.kind == "pinned":
                block, offset = held[id(source)]
                work.source_sum = zlib.crc32(block.bytes[offset : offset + source.nbytes])
            if target.kind == "pinned":
                block, offset = held[id(target)]
                block.bytes[offset : offset + target.nbytes] = UNDER_WAY
        self.queue.append((self.put, work))

    def finish(self, position: int) -> None:
        """The host waits until all work up to ``position`` is done."""
        while self.queue and self.queue[0][0] <= position:
            _run(self.queue.pop(0)[1])
        self.known = max(self.known, position)


def pending(block: Block) -> list[Use]:
    """Uses of a block that the host does not know to be over."""
    return [use for use in block.uses if use.position > use.stream.known]


def _run(work: Work) -> None:
    held = {id(span): place for span, place in zip(work.spans, work.blocks, strict=True)}
    for span, (block, offset) in zip(work.spans, work.blocks, strict=True):
        if work.needs_values and span.access == "reads" and not block.defined[offset : offset + span.nbytes].all():
            first = int((~block.defined[offset : offset + span.nbytes]).argmax())
            raise Violation(f"{work.what} reads byte {offset + first} of {block}, which nobody wrote")
    if work.source_sum is not None and work.copies is not None:
        source = work.copies[1]
        block, offset = held[id(source)]
        if zlib.crc32(block.bytes[offset : offset + source.nbytes]) != work.source_sum:
            raise Violation(f"{work.what}: the host wrote to {block} before the copy from it was done")
    Stream.running += 1
    try:
        work.run()
    finally:
        Stream.running -= 1
    if work.copies is not None:
        target, source = (held[id(span)] for span in work.copies)
        nbytes = work.copies[0].nbytes
        known = source[0].defined[source[1] : source[1] + nbytes]
        target[0].defined[target[1] : target[1] + nbytes] = True if source[0].kind == "pinned" else known
        return
    for span, (block, offset) in zip(work.spans, work.blocks, strict=True):
        if span.access == "writes":
            block.defined[offset : offset + span.nbytes] = True
