"""The CUDA driver library through ctypes: the one library every machine with an NVIDIA GPU has.

Its symbols keep their meaning across majors (CUDA driver API reference, "Difference between the driver and runtime
APIs"), so one table serves JetPack's CUDA 12 and a CUDA 13 server, with no toolkit and no Python package. It shares
the device's primary context with the CUDA runtime, so TensorRT, torch and cuda-python see the same memory and streams.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any

from luvc_export.errors import MachineError

LIBRARIES = ("libcuda.so.1", "nvcuda.dll")

NO_DEVICE, OUT_OF_MEMORY = 100, 2

#: One side of CUDA_MEMCPY2D.
_SIDE: tuple[tuple[str, Any], ...] = (
    *(("_x", c_size_t), ("_y", c_size_t), ("_type", c_uint), ("_host", c_void_p)),
    *(("", c_uint64), ("_array", c_void_p), ("_pitch", c_size_t)),
)


class Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D of cuda.h: ``height`` pieces of ``width`` bytes, each ``pitch`` bytes behind the one before."""

    _fields_ = (
        *((f"{side}{name}", kind) for side in ("source", "target") for name, kind in _SIDE),
        ("width", c_size_t),
        ("height", c_size_t),
    )


#: Argument types of every function used, as cuda.h declares them; each returns a CUresult. Device addresses are 64-bit
#: integers, contexts, streams, events and graphs are pointers.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuMemcpy2DAsync_v2": (POINTER(Copy2D), c_void_p),
    "cuMemsetD8Async": (c_uint64, c_ubyte, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
}


class CudaError(MachineError):
    """A call of the CUDA driver failed; ``code`` is its CUresult."""

    def __init__(self, what: str, code: int, **parts: Any) -> None:
        super().__init__(what, **parts)
        self.code = code


class Driver:
    """The loaded library.

    Args:
        library: File name or path; None for the system's.

    Raises:
        MachineError: There is no such library, so no NVIDIA driver, or it lacks a function.
    """

    def __init__(self, library: str | None = None) -> None:
        self._library = _load((library,) if library else LIBRARIES)
        for name, types in SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise MachineError(
                    "the NVIDIA driver is too old",
                    where=str(self._library._name),
                    got=f"no function {name}",
                    expected="a driver of CUDA 11.4 or newer",
                    fix="update the NVIDIA driver",
                ) from error
            function.argtypes, function.restype = types, c_int

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call function ``name``.

        Raises:
            CudaError: It did not return CUDA_SUCCESS.
        """
        code: int = getattr(self._library, name)(*arguments)
        if code:
            raise CudaError("a CUDA call failed", code, where=name, got=self.describe(code))

    def try_call(self, name: str, *arguments: Any) -> int:
        """Call function ``name`` and return its CUresult."""
        code: int = getattr(self._library, name)(*arguments)
        return code

    def describe(self, code: int) -> str:
        """Name and text of a CUresult."""
        texts = []
        for name in ("cuGetErrorName", "cuGetErrorString"):
            text = c_char_p()
            self.try_call(name, code, ctypes.byref(text))
            texts.append((text.value or b"unknown").decode())
        return f"{texts[0]} ({code}): {texts[1]}"


def _load(names: tuple[str, ...]) -> Any:
    problems = []
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            problems.append(str(error))
    raise MachineError(
        "there is no NVIDIA driver on this machine",
        where="CUDA",
        got="; ".join(problems),
        expected=names[0],
        fix="run on a machine with an NVIDIA GPU (in a container: start it with the GPU), or choose the cpu back-end",
    )
