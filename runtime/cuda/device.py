"""One GPU: memory, copies, streams, events and graphs, as few calls as the engines need."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.cuda.driver import NO_DEVICE, OUT_OF_MEMORY, Copy2D, CudaError, Driver
from luvc_export.runtime.memory import SHORT_ON_GPU, gib

# CUdevice_attribute, CUstream_flags, CUstreamCaptureMode, CUevent_flags, CUmemorytype of cuda.h.
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18
_NON_BLOCKING, _THREAD_LOCAL, _DISABLE_TIMING, _ON_DEVICE = 1, 1, 2, 2


@dataclass(frozen=True)
class GpuInfo:
    """A GPU: name, compute capability, whether it shares the host's memory, and the CUDA version of its driver."""

    name: str
    capability: tuple[int, int]
    integrated: bool
    driver: tuple[int, int]


class Memory:
    """Bytes on the GPU, or page-locked on the host; given back when this object goes."""

    def __init__(self, address: int, nbytes: int, free: Callable[[], object]) -> None:
        self.address, self.nbytes = address, nbytes
        self._finalizer = weakref.finalize(self, free)
        self._finalizer.atexit = False  # the process gives everything back, and the context may be gone by then

    def array(self) -> NDArray[np.uint8]:
        """The bytes of page-locked host memory; the array keeps them alive."""
        view: Any = (ctypes.c_ubyte * self.nbytes).from_address(self.address)
        view.owner = self
        return np.ctypeslib.as_array(view)


class CudaGraph:
    """Captured work of a stream."""

    def __init__(self, gpu: Gpu, handle: ctypes.c_void_p) -> None:
        self._driver, self._handle = gpu.driver, handle
        finalizer = weakref.finalize(self, gpu.releasing("cuGraphExecDestroy", handle))
        finalizer.atexit = False

    def launch(self, stream: int) -> None:
        """Run the captured work on ``stream``."""
        self._driver("cuGraphLaunch", self._handle, stream)


class Event:
    """A point in a stream's work."""

    def __init__(self, gpu: Gpu) -> None:
        self._driver, self._handle = gpu.driver, ctypes.c_void_p()
        self._driver("cuEventCreate", ctypes.byref(self._handle), _DISABLE_TIMING)
        finalizer = weakref.finalize(self, gpu.releasing("cuEventDestroy_v2", self._handle))
        finalizer.atexit = False

    def record(self, stream: int) -> None:
        """Stand behind all work that is on ``stream`` now."""
        self._driver("cuEventRecord", self._handle, stream)

    def wait(self) -> None:
        """Wait until the stream has come here; at once where nothing was recorded."""
        self._driver("cuEventSynchronize", self._handle)


class Gpu:
    """GPU ``ordinal``, through its primary context, which the CUDA runtime, TensorRT and torch use too.

    Args:
        ordinal: As CUDA counts, after CUDA_VISIBLE_DEVICES.
        library: Driver library, see ``Driver``.

    Raises:
        MachineError: No driver, or no such GPU.
    """

    def __init__(self, ordinal: int = 0, library: str | None = None) -> None:
        self.driver = driver = Driver(library)
        self.ordinal = ordinal
        count, device, self._context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        code = driver.try_call("cuInit", 0)
        if not code:
            driver("cuDeviceGetCount", ctypes.byref(count))
        if code in (0, NO_DEVICE) and not 0 <= ordinal < count.value:
            raise MachineError(
                "there is no such GPU",
                where="CUDA",
                got=f"GPU {ordinal} of {count.value}",
                fix="check nvidia-smi and CUDA_VISIBLE_DEVICES, or choose the cpu back-end",
            )
        if code:
            fix = "check the driver (nvidia-smi) and that this user may use the GPU, or choose the cpu back-end"
            raise CudaError("CUDA does not start", code, where="cuInit", got=driver.describe(code), fix=fix)
        driver("cuDeviceGet", ctypes.byref(device), ordinal)
        driver("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.activate()
        self.info = self._read_info(device)

    def activate(self) -> None:
        """Make this GPU current in the calling thread."""
        self.driver("cuCtxSetCurrent", self._context)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes. On an integrated GPU that is the host's memory."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.driver("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, nbytes: int, what: str, after: Event | None = None) -> Memory:
        """Allocate ``nbytes`` (at least 1) for ``what``; CUDA aligns to 256 bytes, as TensorRT asks.

        It is given back once ``after`` has come.

        Raises:
            MachineError: The GPU has not that much left.
        """
        address = ctypes.c_uint64()
        code = self.driver.try_call("cuMemAlloc_v2", ctypes.byref(address), max(nbytes, 1))
        if code == OUT_OF_MEMORY:
            raise MachineError(
                SHORT_ON_GPU,
                where=what,
                got=f"{gib(self.memory()[0])} free",
                expected=gib(nbytes),
                fix="close other programs on the GPU, or use an engine with fewer images, less text or lower budgets",
            )
        if code:
            raise CudaError("a CUDA call failed", code, where="cuMemAlloc", got=self.driver.describe(code))
        return Memory(address.value, nbytes, self.releasing("cuMemFree_v2", address.value, after))

    def pinned(self, nbytes: int, after: Event | None = None) -> Memory:
        """Allocate page-locked host memory, which copies do not wait for; given back once ``after`` has come."""
        address = ctypes.c_void_p()
        self.driver("cuMemHostAlloc", ctypes.byref(address), max(nbytes, 1), 0)
        return Memory(int(address.value or 0), nbytes, self.releasing("cuMemFreeHost", address.value, after))

    def releasing(self, name: str, handle: Any, after: Event | None = None) -> Callable[[], None]:
        """What gives something back, in whichever thread its last holder goes."""
        driver, context = self.driver, self._context

        def release() -> None:
            before = ctypes.c_void_p()
            driver.try_call("cuCtxPushCurrent_v2", context)
            if after is not None:
                after.wait()
            driver.try_call(name, handle)
            driver.try_call("cuCtxPopCurrent_v2", ctypes.byref(before))

        return release

    def upload(self, address: int, source: int, nbytes: int, stream: int) -> None:
        """Copy from host address ``source``; it must stay until the stream has done so."""
        if nbytes:
            self.driver("cuMemcpyHtoDAsync_v2", address, source, nbytes, stream)

    def download(self, target: int, address: int, nbytes: int, stream: int) -> None:
        """Copy to host address ``target``; it is there when the stream has done so."""
        if nbytes:
            self.driver("cuMemcpyDtoHAsync_v2", target, address, nbytes, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy on the GPU."""
        if nbytes:
            self.driver("cuMemcpyDtoDAsync_v2", target, source, nbytes, stream)

    def copy_pieces(
        self, target: tuple[int, int], source: tuple[int, int], width: int, height: int, stream: int
    ) -> None:
        """Copy ``height`` pieces of ``width`` bytes on the GPU.

        Args:
            target: Address of the first piece, and bytes from one to the next.
            source: Likewise.
            width: Bytes of a piece.
            height: How many.
            stream: Where.
        """
        if width and height:
            copy = Copy2D(width=width, height=height)
            copy.source, copy.source_pitch = source
            copy.target, copy.target_pitch = target
            copy.source_type = copy.target_type = _ON_DEVICE
            self.driver("cuMemcpy2DAsync_v2", ctypes.byref(copy), stream)

    def clear(self, address: int, nbytes: int, stream: int) -> None:
        """Set bytes to zero."""
        if nbytes:
            self.driver("cuMemsetD8Async", address, 0, nbytes, stream)

    def synchronize(self, stream: int) -> None:
        """Wait for all work of ``stream``."""
        self.driver("cuStreamSynchronize", stream)

    def new_stream(self) -> int:
        """Create a stream that never waits for the default one; it lives as long as this object."""
        handle = ctypes.c_void_p()
        self.driver("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        finalizer = weakref.finalize(self, self.releasing("cuStreamDestroy_v2", handle))
        finalizer.atexit = False
        return int(handle.value or 0)

    def capture(self, stream: int, work: Callable[[], object]) -> CudaGraph:
        """Record what ``work`` puts on ``stream``, without running it.

        The collector waits meanwhile: memory it gave back would end the capture (cuStreamBeginCapture, "thread local").

        Raises:
            CudaError: Something in it cannot be recorded. The stream is usable again.
        """
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        collects = gc.isenabled()
        gc.disable()
        try:
            self.driver("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
            try:
                work()
            except BaseException:
                self.driver.try_call("cuStreamEndCapture", stream, ctypes.byref(graph))
                if graph:
                    self.driver.try_call("cuGraphDestroy", graph)
                raise
            self.driver("cuStreamEndCapture", stream, ctypes.byref(graph))
        finally:
            if collects:
                gc.enable()
        try:
            self.driver("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self.driver.try_call("cuGraphDestroy", graph)
        return CudaGraph(self, executable)

    def _read_info(self, device: ctypes.c_int) -> GpuInfo:
        name, version = ctypes.create_string_buffer(256), ctypes.c_int()
        self.driver("cuDeviceGetName", name, len(name), device)
        self.driver("cuDriverGetVersion", ctypes.byref(version))
        values = []
        for attribute in (_MAJOR, _MINOR, _INTEGRATED):
            value = ctypes.c_int()
            self.driver("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            values.append(value.value)
        driver = (version.value // 1000, version.value % 1000 // 10)
        return GpuInfo(name.value.decode(), (values[0], values[1]), bool(values[2]), driver)


def stream_handle(stream: Any) -> int:
    """CUDA stream of the caller as an integer.

    Args:
        stream: An integer, an object that follows cuda-python's ``__cuda_stream__`` protocol, or torch's stream.

    Raises:
        UsageError: It is none of these, or the default stream, which cannot be captured into a graph.
    """
    if hasattr(stream, "__cuda_stream__"):
        stream = stream.__cuda_stream__()[1]
    stream = getattr(stream, "cuda_stream", stream)
    if not isinstance(stream, int) or isinstance(stream, bool) or stream in (0, 1, 2):
        raise UsageError(
            "this is no CUDA stream to run engines on",
            where="stream",
            got=repr(stream),
            expected="a stream of its own: a handle, torch.cuda.Stream, or an object with __cuda_stream__",
            fix="create a stream; the default stream waits for all others and cannot be captured",
        )
    return stream


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
