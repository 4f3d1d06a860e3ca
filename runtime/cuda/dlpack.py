"""DLPack in ctypes: lend memory to other libraries and borrow theirs, without a copy and without depending on any.

The structs are those of dlpack.h 0.8 (github.com/dmlc/dlpack), which every consumer of the Python array API standard
takes; later versions are asked for through ``max_version`` only.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p, py_object
from dataclasses import dataclass
from typing import Any

from luvc_export.core.element_types import BY_NAME, ELEMENT_TYPES
from luvc_export.errors import UsageError

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13

#: DLDataTypeCode and bits of each dtype.
TYPES = {kind.name: (kind.dlpack, 8 * kind.itemsize) for kind in ELEMENT_TYPES if kind.dlpack is not None}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p))


_api = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", _api))
_pointer = ctypes.PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", _api))
_raw_pointer = ctypes.PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", _api))
_raw_valid = ctypes.PYFUNCTYPE(ctypes.c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", _api))

#: What is lent, by the address of its struct: the struct, its shape and the owner of the memory.
_lent: dict[int, tuple[Any, ...]] = {}


def _delete(address: int) -> None:
    _lent.pop(address, None)


def _drop_capsule(capsule: int) -> None:
    """A capsule nobody took: its name is still the first one."""
    if _raw_valid(capsule, b"dltensor"):
        _lent.pop(_raw_pointer(capsule, b"dltensor"), None)


_deleter = ctypes.CFUNCTYPE(None, c_void_p)(_delete)
_destructor = ctypes.CFUNCTYPE(None, c_void_p)(_drop_capsule)


@dataclass(frozen=True)
class Borrowed:
    """Memory of another library, valid while this lives. ``device`` is (DLPack device type, device number)."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: tuple[int, int]
    owner: object

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * BY_NAME[self.dtype].itemsize


def lend(address: int, shape: tuple[int, ...], dtype: str, device: tuple[int, int], owner: object) -> object:
    """A DLPack capsule of dense row-major memory; ``owner`` lives until the consumer is done with it."""
    sizes = (c_int64 * max(len(shape), 1))(*shape)
    code, bits = TYPES[dtype]
    tensor = _Tensor(address, *device, len(shape), code, bits, 1, sizes, None, 0)
    managed = _Managed(tensor, None, ctypes.cast(_deleter, c_void_p))
    address = ctypes.addressof(managed)
    _lent[address] = (managed, sizes, owner)
    return _new(address, b"dltensor", ctypes.cast(_destructor, c_void_p))


def borrow(tensor: Any, where: str, stream: int | None = None) -> Borrowed:
    """The memory of any object with ``__dlpack__``.

    Args:
        tensor: A dense row-major tensor.
        where: What it is, for errors.
        stream: CUDA stream that will read it; its producer makes it wait for the values.

    Raises:
        UsageError: It has strides or a dtype that are not taken, or cannot be shared.
    """
    kind, number = (int(part) for part in tensor.__dlpack_device__())
    try:
        capsule = tensor.__dlpack__(stream=stream) if kind in (CUDA, CUDA_MANAGED) else tensor.__dlpack__()
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError("a tensor cannot be shared through DLPack", where=where, got=str(error)) from error
    raw = _Managed.from_address(_pointer(capsule, b"dltensor")).tensor
    shape = tuple(raw.shape[axis] for axis in range(raw.ndim))
    names = [name for name, kind_of in TYPES.items() if kind_of == (raw.code, raw.bits) and raw.lanes == 1]
    dense, step = True, 1
    for axis in reversed(range(raw.ndim if raw.strides else 0)):
        dense &= shape[axis] == 1 or raw.strides[axis] == step
        step *= shape[axis]
    if not names or not (dense or 0 in shape):
        got = "strides" if names else f"DLPack type code {raw.code} of {raw.bits} bits"
        fix = "pass tensor.contiguous()" if names else None
        expected = f"a dense tensor of {', '.join(TYPES)}"
        raise UsageError("a tensor is not of a kind engines read", where=where, got=got, expected=expected, fix=fix)
    # The capsule is not consumed: it keeps the struct, and so the memory, until it goes.
    return Borrowed((raw.data or 0) + raw.byte_offset, shape, names[0], (kind, number), capsule)
