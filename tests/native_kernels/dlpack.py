"""Tensors of any library that speaks DLPack, borrowed as an address, a shape and an element type."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from luvc_export.errors import UsageError

_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat"}
_DEVICES = {1: "cpu", 2: "cuda", 3: "cpu", 13: "cuda"}  # 3: pinned host memory, 13: managed memory


class Tensor(Protocol):
    """A tensor of any library that speaks DLPack."""

    def __dlpack__(self, *, stream: int | None = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_GetPointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)


@dataclass(frozen=True)
class View:
    """A borrowed tensor; the memory is valid while this lives."""

    name: str
    address: int
    shape: tuple[int, ...]
    dtype: str
    device: str
    owner: object

    def expect(self, shape: tuple[int, ...], dtypes: Sequence[str], device: str) -> None:
        """Raise UsageError unless shape, dtype and device are these."""
        if self.shape != shape or self.dtype not in dtypes or self.device != device:
            got = f"{self.dtype} {list(self.shape)} on {self.device}"
            expected = f"{' or '.join(dtypes)} {list(shape)} on {device}"
            raise UsageError("a tensor does not fit the others", where=self.name, got=got, expected=expected)


def borrow(name: str, tensor: Tensor, stream: int = 0) -> View:
    """Borrow ``tensor``, called ``name`` in messages, ready for work on ``stream``.

    Raises:
        UsageError: It cannot be shared, or is not dense and row-major.
    """
    device = _DEVICES.get(int(tensor.__dlpack_device__()[0]))
    if device is None:
        raise UsageError("a tensor lies on a device this library cannot read", where=name, expected="cpu or cuda")
    try:
        # DLPack calls CUDA's default stream 1.
        capsule = tensor.__dlpack__(stream=stream or 1) if device == "cuda" else tensor.__dlpack__()
    except (BufferError, RuntimeError, TypeError) as error:
        fix = "pass a writable, dense tensor without gradient"
        raise UsageError("a tensor cannot be shared through DLPack", where=name, got=error, fix=fix) from error
    address = _GetPointer(("PyCapsule_GetPointer", ctypes.pythonapi))(capsule, b"dltensor")
    raw = _DLTensor.from_address(address)
    shape = tuple(raw.shape[: raw.ndim])
    dense = 1
    for axis in reversed(range(raw.ndim)):
        if raw.strides and shape[axis] > 1 and 0 not in shape and raw.strides[axis] != dense:
            raise UsageError(
                "a tensor is not dense and row-major", where=name, got=list(shape), fix="make it contiguous"
            )
        dense *= shape[axis]
    dtype = f"{_CODES.get(raw.code, 'unknown')}{raw.bits}"
    return View(name, (raw.data or 0) + raw.byte_offset, shape, dtype, device, capsule)


def expect_rank(view: View, rank: int) -> tuple[int, ...]:
    """The shape of ``view``, which must have ``rank`` dimensions.

    Raises:
        UsageError: It has another rank.
    """
    if len(view.shape) != rank:
        expected = f"{rank} dimensions"
        raise UsageError("a tensor has the wrong rank", where=view.name, got=list(view.shape), expected=expected)
    return view.shape
