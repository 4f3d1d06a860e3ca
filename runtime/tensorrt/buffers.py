"""Memory of calls: on the GPU for inputs, outputs and scratch, page-locked on the host in turns."""

from __future__ import annotations

from collections.abc import Callable

from luvc_export.runtime.cuda.device import Event, Gpu, Memory


class StagingBuffer:
    """Page-locked host memory of one call: what goes down, what comes up, and when both are done with."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.event = event = Event(gpu)
        self.given, self.made = gpu.pinned(0, event), gpu.pinned(0, event)
        self.leave: Callable[[], object] = lambda: None

    def take(self, input_bytes: int, output_bytes: int) -> None:
        """Have this memory again, with room for so many bytes each way.

        The call before has read and written all of it, and its results, where somebody still may ask for them, have
        been taken out (``leave``).
        """
        self.leave()
        self.event.wait()
        self.leave = lambda: None
        if input_bytes > self.given.nbytes:
            self.given = self._gpu.pinned(input_bytes, self.event)
        if output_bytes > self.made.nbytes:
            self.made = self._gpu.pinned(output_bytes, self.event)


class Buffer:
    """Memory on the GPU that grows, and keeps its address until it does. What was there before is lost then."""

    def __init__(self, gpu: Gpu, stream: int, what: str) -> None:
        self._gpu, self._stream, self._what = gpu, stream, what
        self._memory: Memory = gpu.allocate(0, what)

    def reserve(self, nbytes: int) -> None:
        """Have room for ``nbytes``."""
        if nbytes > self._memory.nbytes:
            self._gpu.synchronize(self._stream)  # a call may still use what is given back here
            self._memory = self._gpu.allocate(nbytes, self._what)

    @property
    def address(self) -> int:
        """Device address; it changes when more is reserved."""
        return self._memory.address
