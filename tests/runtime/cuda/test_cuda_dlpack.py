from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import stand_in
import torch

from luvc_export.errors import UsageError
from luvc_export.runtime.cuda import dlpack
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.cuda.pool import Block, Lease
from luvc_export.runtime.cuda.tensor import GpuTensor, to_engine, to_host


class Lender:
    """Host memory under DLPack: what a tensor on a GPU does, where numpy and torch can read it."""

    def __init__(self, values: np.ndarray[Any, Any], dtype: str | None = None) -> None:
        self.values, self.dtype = values, dtype or str(values.dtype)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0

    def __dlpack__(self, **_: Any) -> object:
        return dlpack.lend(
            self.values.ctypes.data, self.values.shape, self.dtype, self.__dlpack_device__(), self.values
        )


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_numpy_and_torch_read_what_is_lent(dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    for theirs in (np.from_dlpack(Lender(values)), torch.from_dlpack(Lender(values)).numpy()):
        assert theirs.dtype == values.dtype and theirs.tolist() == values.tolist()
        assert theirs.ctypes.data == values.ctypes.data


def test_torch_reads_bfloat16() -> None:
    bits = to_engine(np.array([1.5, -3.0], np.float32), "bfloat16")
    theirs = torch.from_dlpack(Lender(bits, "bfloat16"))
    assert theirs.dtype == torch.bfloat16 and theirs.tolist() == [1.5, -3.0]


@pytest.mark.parametrize("consume", [True, False], ids=["taken", "never taken"])
def test_the_owner_lives_until_the_consumer_is_done(consume: bool) -> None:
    class Owner:
        pass

    owner, values = Owner(), np.arange(4.0)
    alive = weakref.ref(owner)
    capsule = dlpack.lend(values.ctypes.data, (4,), "float32", (dlpack.CPU, 0), owner)
    taken = torch.utils.dlpack.from_dlpack(capsule) if consume else None
    del owner, capsule
    gc.collect()
    assert (alive() is not None) is consume
    del taken
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_pictures_of_others_are_borrowed(make: Any) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    borrowed = dlpack.borrow(make(values), "image")
    assert (borrowed.address, borrowed.shape, borrowed.dtype) == (values.ctypes.data, (2, 3, 4), "uint8")
    assert borrowed.device == (dlpack.CPU, 0) and borrowed.nbytes == 24


def test_a_view_with_an_offset() -> None:
    values = torch.arange(10, dtype=torch.uint8)
    assert dlpack.borrow(values[4:], "image").address == values.data_ptr() + 4


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.zeros(4, 4, dtype=torch.uint8).T[1:], "strides(.|\n)*contiguous"),
        (torch.zeros(2, dtype=torch.complex64), "type code 5 of 64 bits"),
        (torch.zeros(2, requires_grad=True), "cannot be shared through DLPack"),
    ],
)
def test_what_cannot_be_borrowed_says_why(tensor: torch.Tensor, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        dlpack.borrow(tensor, "image")
    assert "where: image" in str(caught.value)


def test_bfloat16_rounds_as_torch_does() -> None:
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    values[:3] = np.inf, -np.inf, np.nan
    bits = to_engine(values, "bfloat16")
    ours = to_host(bits.view(np.uint8), "bfloat16", (500,))
    np.testing.assert_array_equal(ours, torch.from_numpy(values).bfloat16().float().numpy())


def test_a_tensor_on_the_gpu_hands_itself_on() -> None:
    gpu = Gpu(library=stand_in.library())
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    memory, host = gpu.allocate(values.nbytes, "test"), gpu.pinned(values.nbytes)
    host.array()[:] = values.view(np.uint8).ravel()
    stream = gpu.new_stream()
    gpu.upload(memory.address, host.address, values.nbytes, stream)
    tensor = GpuTensor(gpu, Lease(Block(memory)), values.shape, "float16", stream)
    assert len(tensor) == 2 and tensor[None].shape == (1, 2, 3)
    back = np.asarray(tensor[None])
    assert back.dtype == np.float32 and back.tolist() == [values.tolist()]
    assert tensor.__dlpack_device__() == (2, 0)
    borrowed = dlpack.borrow(tensor, "test", stream)
    assert (borrowed.address, borrowed.shape, borrowed.dtype) == (memory.address, (2, 3), "float16")
    with pytest.raises(UsageError, match="not indexed there"):
        tensor[0]  # type: ignore[index]
    with pytest.raises(ValueError, match="must be copied"):
        np.array(tensor, copy=False)


def test_only_floats_are_widened() -> None:
    for dtype in ("int64", "bool", "uint8", "float32"):
        assert to_host(np.ones(2, dtype).view(np.uint8), dtype, (2,)).dtype == dtype
