# ruff: noqa: N802  (methods have the names of the functions they stand for)
"""The functions of the driver table (runtime/cuda/driver.py), each with what CUDA asks of its caller.

Rules are those of the CUDA driver API reference: a current context in the thread, live handles, ranges inside one
allocation, no page-locked memory given back while work is at it, order between streams, and what may be called while a
stream of this thread is captured (cuStreamBeginCapture, "thread local": no call that allocates, gives back or waits).
Device memory given back waits for all streams (CUDA C++ Programming Guide, "Stream Ordered Memory Allocator").
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from checked_cuda.memory import ALIGNMENT, Access, Block, Heap, Kind, Span, Violation
from checked_cuda.work import Stream, Work, pending
from luvc_export.runtime.cuda import device
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.cuda.driver import OUT_OF_MEMORY, SIGNATURES, Driver

_UNSUPPORTED = 900
#: Calls that need no context.
_FREE = ("cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString", "cuDeviceGetCount", "cuDeviceGet",
         "cuDeviceGetName", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent",
         "cuCtxPushCurrent_v2")  # fmt: skip
#: Calls that end a capture of the calling thread.
_UNSAFE = ("cuMemAlloc_v2", "cuMemFree_v2", "cuMemHostAlloc", "cuMemFreeHost", "cuStreamSynchronize",
           "cuEventSynchronize", "cuEventRecord", "cuStreamDestroy_v2", "cuGraphLaunch", "cuMemGetInfo_v2")  # fmt: skip


_RELEASES = ("cuMemFree_v2", "cuMemFreeHost", "cuStreamDestroy_v2", "cuEventDestroy_v2", "cuGraphExecDestroy",
             "cuGraphDestroy")  # fmt: skip


class _Event:
    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.position = 0


class CheckedDriver(Driver):
    """A driver of one GPU.

    Args:
        capacity: Bytes of device memory.
    """

    def __init__(self, capacity: int = 512 << 20) -> None:
        self.heap = Heap(capacity)
        self.violations: list[str] = []
        self.calls: dict[str, int] = {}
        #: Nothing is looked at any more: what is torn down after a violation.
        self.abandoned = False
        self.capturing: Stream | None = None
        self._handles: dict[int, Any] = {}
        self._next = 0x1000
        #: Contexts of each thread, the current one last.
        self._current: dict[int, list[int]] = {}
        self._streams = 0
        self._late: list[tuple[str, Kind, int]] = []

    def __call__(self, name: str, *arguments: Any) -> None:
        """See ``Driver``."""
        before = len(self.violations)
        code = self.try_call(name, *arguments)
        if len(self.violations) > before:
            raise Violation(self.violations[-1])
        if code:
            raise device.CudaError("a CUDA call failed", code, where=name, got=self.describe(code))

    def try_call(self, name: str, *arguments: Any) -> int:
        """See ``Driver``.

        Raises:
            Violation: The call is not allowed; ``violations`` keeps its text. What gives back is called by finalisers,
                which swallow what they raise, so there the text alone is kept.
        """
        if self.abandoned:
            return 0
        self.calls[name] = self.calls.get(name, 0) + 1
        try:
            while self._late and not Stream.running:
                self._free(*self._late.pop())
            kinds = SIGNATURES[name]
            if len(kinds) != len(arguments):
                raise Violation(f"{name} has {len(kinds)} arguments, not {len(arguments)}")
            for place, (kind, value) in enumerate(zip(kinds, arguments, strict=True)):
                try:
                    kind.from_param(value)
                except (TypeError, ctypes.ArgumentError) as error:
                    raise Violation(f"{name}: argument {place} is {value!r}: {error}") from error
            if name not in _FREE and not self._current.get(threading.get_ident()):
                raise Violation(f"{name}: no context is current in thread {threading.current_thread().name}")
            if name in _UNSAFE and self.capturing is not None:
                if name.endswith(("Synchronize", "Record")):
                    return _UNSUPPORTED  # the capture can be ended
                raise Violation(f"{name} while {self.capturing} is captured, which ends the capture")
            code: int = getattr(self, f"_{name}")(*map(_plain, arguments)) or 0
        except Violation as error:
            self.violations.append(str(error))
            if name in _RELEASES:
                return 1
            raise
        return code

    def launch(
        self,
        stream: int,
        run: Callable[[], object],
        reads: Sequence[tuple[int, int]],
        writes: Sequence[tuple[int, int]],
    ) -> None:
        """Put an engine's work on ``stream``: address and bytes of all it reads and writes.

        Raises:
            Violation: As for calls; or an address is not as TensorRT asks.
        """
        spans = []
        for access, pairs in (("reads", reads), ("writes", writes)):
            for address, nbytes in pairs:
                if nbytes and address % ALIGNMENT:
                    self._violate(f"an engine {access} {address:#x}, which is no multiple of {ALIGNMENT}")
                spans += (
                    [_span("reads" if access == "reads" else "writes", "device", address, nbytes)] if nbytes else []
                )
        try:
            self._put(stream, Work("an engine", spans, run, needs_values=True))
        except Violation as error:
            self.violations.append(str(error))
            raise

    def finish(self) -> None:
        """Nothing is wrong, and nothing is left of what was allocated.

        Raises:
            Violation: Something is.
        """
        if self.violations:
            raise Violation("\n".join(dict.fromkeys(self.violations)))
        if left := [str(block) for block in self.heap.live]:
            raise Violation(f"not given back: {', '.join(left)}")
        if self._handles:
            raise Violation(f"not destroyed: {sorted(type(item).__name__ for item in self._handles.values())}")

    # Devices and contexts.

    def _cuInit(self, flags: int) -> None:
        _expect("cuInit", flags == 0, f"flags are {flags}")

    def _cuDriverGetVersion(self, version: Any) -> None:
        version.value = 13010

    def _cuGetErrorName(self, code: int, text: Any) -> None:
        text.value = b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" if code == _UNSUPPORTED else b"CUDA_ERROR"

    def _cuGetErrorString(self, code: int, text: Any) -> None:
        text.value = b"an error of the checked driver"

    def _cuDeviceGetCount(self, count: Any) -> None:
        count.value = 1

    def _cuDeviceGet(self, number: Any, ordinal: int) -> None:
        number.value = ordinal

    def _cuDeviceGetName(self, name: Any, length: int, number: int) -> None:
        name.value = b"checked"

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, number: int) -> None:
        value.value = {75: 8, 76: 9}.get(attribute, 0)

    def _cuDevicePrimaryCtxRetain(self, context: Any, number: int) -> None:
        context.value = 1

    def _cuCtxSetCurrent(self, context: int) -> None:
        _expect("cuCtxSetCurrent", context == 1, f"context is {context}")
        self._current[threading.get_ident()] = [*self._current.get(threading.get_ident(), [])[:-1], context]

    def _cuCtxPushCurrent_v2(self, context: int) -> None:
        _expect("cuCtxPushCurrent", context == 1, f"context is {context}")
        self._current.setdefault(threading.get_ident(), []).append(context)

    def _cuCtxPopCurrent_v2(self, context: Any) -> None:
        context.value = self._current[threading.get_ident()].pop()

    # Memory.

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free.value, total.value = self.heap.capacity - self.heap.used, self.heap.capacity

    def _cuMemAlloc_v2(self, address: Any, nbytes: int) -> int:
        _expect("cuMemAlloc", nbytes > 0, "no bytes")
        if self.heap.used + nbytes > self.heap.capacity:
            return OUT_OF_MEMORY
        address.value = self.heap.allocate("device", nbytes).address
        return 0

    def _cuMemHostAlloc(self, address: Any, nbytes: int, flags: int) -> None:
        _expect("cuMemHostAlloc", nbytes > 0 and flags == 0, f"{nbytes} bytes, flags {flags}")
        address.value = self.heap.allocate("pinned", nbytes).address

    def _cuMemFree_v2(self, address: int) -> None:
        self._free("cuMemFree", "device", address)

    def _cuMemFreeHost(self, address: int) -> None:
        self._free("cuMemFreeHost", "pinned", address)

    def _free(self, name: str, kind: Kind, address: int) -> None:
        block = self.heap.start_of(kind, address, name)
        if Stream.running:  # the collector, in the midst of an engine: a real one would not be Python
            self._late.append((name, kind, address))
            return
        if kind == "device":
            for stream in [item for item in self._handles.values() if isinstance(item, Stream)]:
                stream.finish(stream.put)
        if uses := pending(block):
            raise Violation(f"{name}: {block} is given back while {uses[-1].what} on {uses[-1].stream} is at it")
        self.heap.release(block)

    # Copies.

    def _cuMemcpyHtoDAsync_v2(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._copy("a copy to the GPU", ("device", target), ("pinned", source), nbytes, stream)

    def _cuMemcpyDtoHAsync_v2(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._copy("a copy to the host", ("pinned", target), ("device", source), nbytes, stream)

    def _cuMemcpyDtoDAsync_v2(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._copy("a copy on the GPU", ("device", target), ("device", source), nbytes, stream)

    def _cuMemcpy2DAsync_v2(self, copy: Any, stream: int) -> None:
        _expect("cuMemcpy2D", copy.source_type == copy.target_type == 2, "memory types are not the device's")
        _expect("cuMemcpy2D", copy.width <= min(copy.source_pitch, copy.target_pitch), "rows overlap")
        begins = (copy.source_x, copy.source_y, copy.target_x, copy.target_y)
        _expect("cuMemcpy2D", not any(begins), "it begins inside")
        for row in range(copy.height):
            target, source = (copy.target + row * copy.target_pitch, copy.source + row * copy.source_pitch)
            self._copy("a copy of pieces", ("device", target), ("device", source), copy.width, stream)

    def _copy(self, what: str, to: tuple[Kind, int], of: tuple[Kind, int], nbytes: int, stream: int) -> None:
        _expect(what, nbytes > 0, "no bytes")
        target, source = _span("writes", *to, nbytes), _span("reads", *of, nbytes)
        if to[0] == of[0] and to[1] < of[1] + nbytes and of[1] < to[1] + nbytes:
            raise Violation(f"{what}: source and target overlap")
        self._put(
            stream, Work(what, [target, source], lambda: ctypes.memmove(to[1], of[1], nbytes), False, (target, source))
        )

    def _cuMemsetD8Async(self, target: int, value: int, nbytes: int, stream: int) -> None:
        span = _span("writes", "device", target, nbytes)
        self._put(stream, Work("a memset", [span], lambda: ctypes.memset(target, value, nbytes)))

    # Streams, events, graphs.

    def _cuStreamCreate(self, handle: Any, flags: int) -> None:
        _expect("cuStreamCreate", flags == 1, f"flags are {flags}: it would wait for the default stream")
        self._streams += 1
        handle.value = self._new(Stream(self._streams))

    def _cuStreamDestroy_v2(self, handle: int) -> None:
        stream = self._find("cuStreamDestroy", Stream, handle)
        stream.finish(stream.put)  # CUDA does the work that is left
        del self._handles[handle]

    def _cuStreamSynchronize(self, handle: int) -> None:
        stream = self._find("cuStreamSynchronize", Stream, handle)
        stream.finish(stream.put)

    def _cuStreamBeginCapture_v2(self, handle: int, mode: int) -> None:
        stream = self._find("cuStreamBeginCapture", Stream, handle)
        _expect("cuStreamBeginCapture", mode == 1, f"mode {mode} reaches into other threads")
        _expect("cuStreamBeginCapture", stream.capturing is None, f"{stream} is captured already")
        stream.capturing, self.capturing = [], stream

    def _cuStreamEndCapture(self, handle: int, graph: Any) -> None:
        stream = self._find("cuStreamEndCapture", Stream, handle)
        if stream.capturing is None:
            raise Violation(f"cuStreamEndCapture: {stream} is not captured")
        graph.value = self._new(("graph", stream.capturing))
        stream.capturing = self.capturing = None

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: int, flags: int) -> None:
        _expect("cuGraphInstantiate", flags == 0, f"flags are {flags}")
        executable.value = self._new(["executable", *self._find("cuGraphInstantiate", tuple, graph)[1]])

    def _cuGraphLaunch(self, executable: int, handle: int) -> None:
        stream = self._find("cuGraphLaunch", Stream, handle)
        for work in self._find("cuGraphLaunch", list, executable)[1:]:
            again = work.copy()
            again.what = f"{work.what} of a graph"
            stream.add(again)

    def _cuGraphExecDestroy(self, executable: int) -> None:
        self._find("cuGraphExecDestroy", list, executable)
        del self._handles[executable]

    def _cuGraphDestroy(self, graph: int) -> None:
        self._find("cuGraphDestroy", tuple, graph)
        del self._handles[graph]

    def _cuEventCreate(self, event: Any, flags: int) -> None:
        _expect("cuEventCreate", flags == 2, f"flags are {flags}: it would take times")
        event.value = self._new(_Event())

    def _cuEventDestroy_v2(self, event: int) -> None:
        self._find("cuEventDestroy", _Event, event)
        del self._handles[event]

    def _cuEventRecord(self, handle: int, stream: int) -> None:
        event = self._find("cuEventRecord", _Event, handle)
        event.stream = self._find("cuEventRecord", Stream, stream)
        event.position = event.stream.put

    def _cuEventSynchronize(self, handle: int) -> None:
        event = self._find("cuEventSynchronize", _Event, handle)
        if event.stream is not None:
            event.stream.finish(event.position)

    def _put(self, handle: int, work: Work) -> None:
        stream = self._find(work.what, Stream, handle)
        work.resolve(self.heap)
        if stream.capturing is not None:
            stream.capturing.append(work)
        else:
            stream.add(work)

    def _new(self, item: Any) -> int:
        self._next += 16
        self._handles[self._next] = item
        return self._next

    def _find(self, name: str, kind: type[Any], handle: int) -> Any:
        item = self._handles.get(handle)
        if not isinstance(item, kind):
            raise Violation(f"{name}: {handle or 0:#x} is no {kind.__name__.strip('_').lower()} that lives")
        return item

    def _violate(self, text: str) -> None:
        self.violations.append(text)
        raise Violation(text)


def checked_gpu(patch: pytest.MonkeyPatch, capacity: int = 512 << 20) -> tuple[Gpu, CheckedDriver]:
    """A GPU on a checking driver."""
    driver = CheckedDriver(capacity)
    with patch.context() as only:
        only.setattr(device, "Driver", lambda library: driver)
        return Gpu(), driver


def _plain(value: Any) -> Any:
    """What a function of C would see: objects behind ``byref`` themselves, numbers of handles."""
    if hasattr(value, "_obj"):
        return value._obj
    return value.value if isinstance(value, ctypes._SimpleCData) else value


def _span(access: Access, kind: Kind, address: int, nbytes: int) -> Span:
    return Span(access, kind, int(address or 0), nbytes)


def _expect(name: str, holds: bool, got: str) -> None:
    if not holds:
        raise Violation(f"{name}: {got}")


__all__ = ["Block", "CheckedDriver", "checked_gpu"]
