from __future__ import annotations

import ctypes
import gc
import re

import numpy as np
import pytest
import stand_in

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.cuda.device import Gpu, stream_handle
from luvc_export.runtime.cuda.driver import SIGNATURES, CudaError, Driver


@pytest.fixture
def gpu() -> Gpu:
    return Gpu(library=stand_in.library())


def test_a_machine_without_a_driver_says_so() -> None:
    try:
        Driver()
    except MachineError as error:
        assert re.search(r"no NVIDIA driver on this machine.*libcuda\.so\.1.*cpu back-end", str(error), re.S)
        assert error.exit_code == 3
    else:
        pytest.skip("this machine has an NVIDIA driver")


@stand_in.alone
def test_a_driver_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_GPUS", "0")
    with pytest.raises(MachineError, match=r"no such GPU\n.*\n.*GPU 0 of 0"):
        Gpu(library=stand_in.library())


def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(MachineError, match="GPU 1 of 1"):
        Gpu(1, stand_in.library())


@stand_in.alone
def test_memory_freed_inside_a_host_function_starts_nothing(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector may free what is long gone while an engine of the stand-in runs; what waits for it must wait on."""
    monkeypatch.setenv("STAND_IN_LAZY", "1")
    stream, buffer, host = gpu.new_stream(), gpu.allocate(64, "test"), gpu.pinned(64)
    gone = [gpu.allocate(64, "test"), gpu.pinned(64), gpu.new_stream()]

    def engine(_: object) -> None:
        gone.clear()
        ctypes.memset(buffer.address, 7, 64)

    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine)
    assert gpu.driver._library.cuLaunchHostFunc(ctypes.c_void_p(stream), call, None) == 0
    gpu.download(host.address, buffer.address, 64, stream)
    gpu.synchronize(stream)
    assert (host.array() == 7).all()


def test_an_old_driver_is_named() -> None:
    with pytest.raises(MachineError, match=r"driver is too old(.|\n)*no function cuInit"):
        Driver("libc.so.6")


def test_the_table_is_what_the_stand_in_defines() -> None:
    defined = set(re.findall(r"^CUresult (\w+)\(", stand_in.SOURCE.read_text(encoding="utf-8"), re.M))
    assert {name.removesuffix("_v2") for name in SIGNATURES} == defined - {"cuLaunchHostFunc"}


@stand_in.alone
def test_what_it_is(gpu: Gpu) -> None:
    assert (gpu.info.name, gpu.info.capability, gpu.info.driver) == ("stand-in", (8, 9), (13, 1))


def test_copies_there_on_and_back(gpu: Gpu) -> None:
    stream = gpu.new_stream()
    left, right = (gpu.allocate(64, "test") for _ in range(2))
    host = gpu.pinned(64)
    values = host.array()
    values[:] = np.arange(64)
    gpu.upload(left.address, host.address, 64, stream)
    gpu.copy(right.address, left.address, 64, stream)
    gpu.clear(right.address, 3, stream)
    values[:] = 0
    gpu.download(host.address, right.address, 64, stream)
    gpu.synchronize(stream)
    assert values.tolist() == [0, 0, 0, *range(3, 64)]


def test_pinned_memory_lives_as_long_as_its_array(gpu: Gpu) -> None:
    values = gpu.pinned(1 << 16).array()
    values[:] = 7
    gc.collect()
    assert (values == 7).all()


@stand_in.alone
def test_memory_is_given_back(gpu: Gpu) -> None:
    before, _ = gpu.memory()
    block = gpu.allocate(1 << 20, "test")
    assert gpu.memory()[0] == before - (1 << 20)
    del block
    assert gpu.memory()[0] == before


@stand_in.alone
def test_too_little_memory_says_how_much(gpu: Gpu) -> None:
    with pytest.raises(MachineError, match=r"not enough memory on the GPU\n.*KV cache\n.*0\.06 GiB free\n.*4\.00 GiB"):
        gpu.allocate(4 << 30, "the KV cache")


def test_a_graph_runs_what_was_captured_and_not_before(gpu: Gpu) -> None:
    stream, block, host = gpu.new_stream(), gpu.allocate(4, "test"), gpu.pinned(4)
    host.array()[:] = 1
    gpu.clear(block.address, 4, stream)

    def add() -> None:
        gpu.upload(block.address, host.address, 4, stream)

    graph = gpu.capture(stream, add)
    back = gpu.pinned(4)
    gpu.download(back.address, block.address, 4, stream)
    assert back.array().tolist() == [0] * 4
    host.array()[:] = 9
    graph.launch(stream)
    gpu.download(back.address, block.address, 4, stream)
    assert back.array().tolist() == [9] * 4


def test_a_failed_capture_leaves_the_stream_usable(gpu: Gpu) -> None:
    stream = gpu.new_stream()
    with pytest.raises(CudaError, match="CAPTURE_UNSUPPORTED") as caught:
        gpu.capture(stream, lambda: gpu.synchronize(stream))
    assert caught.value.code == 900
    gpu.synchronize(stream)


def test_streams_of_callers() -> None:
    class Torch:
        cuda_stream = 77

    class Core:
        def __cuda_stream__(self) -> tuple[int, int]:
            return (0, 78)

    assert [stream_handle(item) for item in (76, Torch(), Core())] == [76, 77, 78]
    for bad in (0, True, None, "7"):
        with pytest.raises(UsageError, match="no CUDA stream to run engines on"):
            stream_handle(bad)
