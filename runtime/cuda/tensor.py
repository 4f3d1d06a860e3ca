"""A tensor that stays on the GPU: what the vision engine gives the decoder, and what other libraries may read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.element_types import BY_NAME
from luvc_export.errors import UsageError
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.cuda.dlpack import CUDA, lend
from luvc_export.runtime.cuda.pool import Lease


def to_host(raw: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Bytes of a tensor as numpy: floats of any kind as float32 (numpy has no bf16), all else as it is."""
    if dtype == "bfloat16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    array = raw.view(dtype).reshape(shape)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def to_engine(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """An array as an engine's dtype; bf16 as its bits, rounded to nearest even."""
    if dtype != "bfloat16":
        return np.ascontiguousarray(array, dtype)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.ascontiguousarray(np.where(np.isnan(array), (bits >> 16) | 0x40, rounded), np.uint16)


class GpuTensor:
    """Dense values on the GPU that behave where a numpy array is only handed on.

    ``numpy.asarray`` copies it to the host, floats as float32; ``from_dlpack`` of any library shares it;
    ``tensor[None]`` adds an axis; ``len`` is the first size.

    Args:
        gpu: Where it is.
        lease: Of the block it fills from the start on.
        shape: Sizes.
        dtype: numpy's name, or ``bfloat16``.
        stream: Stream that writes it.
    """

    def __init__(self, gpu: Gpu, lease: Lease, shape: tuple[int, ...], dtype: str, stream: int) -> None:
        self.gpu, self.shape, self.dtype_name = gpu, shape, dtype
        self._lease, self._stream = lease, stream

    @property
    def address(self) -> int:
        """Device address."""
        return self._lease.block.memory.address

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * BY_NAME[self.dtype_name].itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: None) -> GpuTensor:
        if index is not None:
            raise UsageError(
                "values on the GPU are not indexed there", where="GpuTensor", fix="numpy.asarray(tensor), or torch"
            )
        return GpuTensor(self.gpu, self._lease, (1, *self.shape), self.dtype_name, self._stream)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("values on the GPU must be copied to be read on the host")
        self.gpu.activate()
        host = self.gpu.pinned(self.nbytes)
        self.gpu.download(host.address, self.address, self.nbytes, self._stream)
        self.gpu.synchronize(self._stream)
        values = to_host(host.array().copy(), self.dtype_name, self.shape)
        return values if dtype is None else values.astype(dtype)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.gpu.ordinal

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> object:
        """A capsule. The values are there when this returns, so the consumer's stream has nothing to wait for."""
        if stream != -1:
            self.gpu.activate()
            self.gpu.synchronize(self._stream)
        return lend(self.address, self.shape, self.dtype_name, self.__dlpack_device__(), self._lease)
