"""The checking driver: ordinary work passes, and each seeded violation is told."""

from __future__ import annotations

import ctypes
import gc
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from checked_cuda import CheckedDriver, Violation, checked_gpu

from luvc_export.errors import MachineError
from luvc_export.runtime.cuda import device
from luvc_export.runtime.cuda.device import Event, Gpu, StagingBuffer
from luvc_export.runtime.cuda.driver import SIGNATURES

BYTES = 512


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return checked_gpu(monkeypatch, 1 << 20)[0]


def driver_of(gpu: Gpu) -> CheckedDriver:
    assert isinstance(gpu.driver, CheckedDriver)
    return gpu.driver


def test_it_has_every_function_of_the_table() -> None:
    assert {name for name in dir(CheckedDriver) if name.startswith("_cu")} - {"_current"} == {
        f"_{n}" for n in SIGNATURES
    }


def ordinary(gpu: Gpu) -> None:
    """Copies, a graph, pieces and an event, and a lack of memory."""
    stream, event = gpu.new_stream(), Event(gpu)
    left, right = gpu.allocate(BYTES, "test"), gpu.allocate(BYTES, "test")
    host, back = gpu.pinned(BYTES), gpu.pinned(BYTES)
    host.array()[:] = 7
    gpu.upload(left.address, host.address, BYTES, stream)
    graph = gpu.capture(stream, lambda: gpu.copy(right.address, left.address, BYTES, stream))
    graph.launch(stream)
    gpu.copy_pieces((right.address, 64), (left.address + 256, 64), 32, 4, stream)
    gpu.download(back.address, right.address, BYTES, stream)
    event.record(stream)
    event.wait()
    assert (back.array() == 7).all()
    with pytest.raises(MachineError, match="not enough memory on the GPU"):
        gpu.allocate(1 << 20, "test")


def test_ordinary_work_passes_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, driver = checked_gpu(monkeypatch, 1 << 20)
    ordinary(gpu)
    del gpu
    gc.collect()
    driver.finish()


def test_work_is_put_off_until_somebody_waits(gpu: Gpu) -> None:
    """What a caller reads too early is not what it waits for."""
    stream, memory, host = gpu.new_stream(), gpu.allocate(BYTES, "test"), gpu.pinned(BYTES)
    gpu.clear(memory.address, BYTES, stream)
    gpu.download(host.address, memory.address, BYTES, stream)
    assert (host.array() != 0).all()
    gpu.synchronize(stream)
    assert (host.array() == 0).all()


class Scene:
    """A GPU with memory, two streams and work that is under way on the first."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.driver = gpu, driver_of(gpu)
        self.one, self.other = gpu.new_stream(), gpu.new_stream()
        self.memory, self.more = gpu.allocate(BYTES, "test"), gpu.allocate(BYTES, "test")
        self.host = gpu.pinned(BYTES)
        gpu.upload(self.memory.address, self.host.address, BYTES, self.one)

    def gone(self) -> int:
        """Address of memory that was given back."""
        address = self.more.address
        del self.more
        return address


def use_after_free(scene: Scene) -> None:
    scene.gpu.clear(scene.gone(), BYTES, scene.one)


def graph_of_freed_memory(scene: Scene) -> None:
    gpu = scene.gpu
    graph = gpu.capture(scene.one, lambda: gpu.clear(scene.more.address, BYTES, scene.one))
    scene.gone()
    graph.launch(scene.one)


def another_stream_without_an_event(scene: Scene) -> None:
    scene.gpu.copy(scene.more.address, scene.memory.address, BYTES, scene.other)


def another_stream_writes_what_is_read(scene: Scene) -> None:
    scene.gpu.synchronize(scene.one)
    scene.gpu.copy(scene.more.address, scene.memory.address, BYTES, scene.one)
    scene.gpu.clear(scene.memory.address + 8, 8, scene.other)


def event_of_an_earlier_time(scene: Scene) -> None:
    event = Event(scene.gpu)
    event.record(scene.one)
    scene.gpu.clear(scene.more.address, BYTES, scene.one)
    event.wait()
    scene.gpu.clear(scene.memory.address, BYTES, scene.other)  # the event covers this
    scene.gpu.clear(scene.more.address, BYTES, scene.other)


def allocate_while_captured(scene: Scene) -> None:
    scene.gpu.capture(scene.one, lambda: scene.gpu.allocate(8, "test"))


def free_while_captured(scene: Scene) -> None:
    scene.gpu.capture(scene.one, scene.gone)


def copy_too_much(scene: Scene) -> None:
    scene.gpu.copy(scene.more.address, scene.memory.address, BYTES + 1, scene.one)


def piece_past_the_end(scene: Scene) -> None:
    scene.gpu.copy_pieces((scene.more.address, 256), (scene.memory.address, 128), 128, 3, scene.one)


def overlapping_copy(scene: Scene) -> None:
    scene.gpu.copy(scene.memory.address + 64, scene.memory.address, 128, scene.one)


def host_address_for_the_gpu_s(scene: Scene) -> None:
    scene.gpu.clear(scene.host.address, 8, scene.one)


def plain_memory_of_the_host(scene: Scene) -> None:
    plain = (ctypes.c_ubyte * BYTES)()
    scene.gpu.upload(scene.memory.address, ctypes.addressof(plain), BYTES, scene.one)


def host_writes_under_a_copy(scene: Scene) -> None:
    scene.host.array()[3] = 1
    scene.gpu.synchronize(scene.one)


def page_locked_memory_freed_under_a_copy(scene: Scene) -> None:
    scene.driver("cuMemFreeHost", scene.host.address)


def double_free(scene: Scene) -> None:
    scene.driver("cuMemFree_v2", scene.more.address)
    scene.driver("cuMemFree_v2", scene.more.address)


def free_from_inside(scene: Scene) -> None:
    scene.driver("cuMemFree_v2", scene.more.address + 256)


def stream_that_is_none(scene: Scene) -> None:
    scene.gpu.clear(scene.more.address, 8, 77)


def engine_reads_what_nobody_wrote(scene: Scene) -> None:
    scene.driver.launch(scene.one, lambda: None, [(scene.more.address, 8)], [])
    scene.gpu.synchronize(scene.one)


def engine_past_the_end(scene: Scene) -> None:
    scene.driver.launch(scene.one, lambda: None, [], [(scene.more.address, BYTES + 4)])


def engine_at_an_odd_address(scene: Scene) -> None:
    scene.driver.launch(scene.one, lambda: None, [], [(scene.more.address + 4, 4)])


def thread_without_a_context(scene: Scene) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            scene.gpu.clear(scene.more.address, 8, scene.one)
        except Violation as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    thread.join()
    raise errors[0]


def wrong_argument(scene: Scene) -> None:
    scene.driver("cuMemsetD8Async", "here", 0, 8, scene.one)


def lost_argument(scene: Scene) -> None:
    scene.driver("cuMemsetD8Async", scene.more.address, 0, 8)


def captured_twice(scene: Scene) -> None:
    scene.gpu.capture(scene.one, lambda: scene.driver("cuStreamBeginCapture_v2", scene.one, 1))


FAULTS: list[tuple[Callable[[Scene], Any], str]] = [
    (use_after_free, r"a memset writes: device memory 2 .* was given back"),
    (graph_of_freed_memory, r"a memset of a graph writes device memory 2 .*, which was given back"),
    (
        another_stream_without_an_event,
        r"on stream 2 reads device memory 1 .*copy to the GPU on stream 1 writes; nothing",
    ),
    (
        another_stream_writes_what_is_read,
        r"memset on stream 2 writes device memory 1.*copy on the GPU on stream 1 reads",
    ),
    (event_of_an_earlier_time, r"memset on stream 2 writes device memory 2 .*memset on stream 1 writes; nothing"),
    (allocate_while_captured, r"cuMemAlloc_v2 while stream 1 is captured"),
    (free_while_captured, r"cuMemFree_v2 while stream 1 is captured"),
    (copy_too_much, r"513 bytes of which 512 lie in device memory 2"),
    (piece_past_the_end, r"a copy of pieces writes: nothing is allocated|128 bytes of which 0|was given back"),
    (overlapping_copy, r"source and target overlap"),
    (host_address_for_the_gpu_s, r"pinned memory 3 .* where device memory is expected"),
    (plain_memory_of_the_host, r"a copy to the GPU reads: nothing is allocated"),
    (host_writes_under_a_copy, r"the host wrote to pinned memory 3 .* before the copy from it was done"),
    (page_locked_memory_freed_under_a_copy, r"pinned memory 3 .* given back while a copy to the GPU on stream 1"),
    (double_free, r"cuMemFree: device memory 2 .* was given back"),
    (free_from_inside, r"lies inside device memory 2"),
    (stream_that_is_none, r"0x4d is no stream that lives"),
    (engine_reads_what_nobody_wrote, r"an engine reads byte 0 of device memory 2 .*, which nobody wrote"),
    (engine_past_the_end, r"an engine writes: 516 bytes of which 512"),
    (engine_at_an_odd_address, r"an engine writes .* no multiple of 256"),
    (thread_without_a_context, r"cuMemsetD8Async: no context is current in thread worker"),
    (wrong_argument, r"argument 0 is 'here'"),
    (lost_argument, r"has 4 arguments, not 3"),
    (captured_twice, r"stream 1 is captured already"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_seeded_violation_is_told(gpu: Gpu, fault: Callable[[Scene], Any], message: str) -> None:
    """At once, or by ``finish`` where it happened in a finaliser, which swallows what it raises."""
    scene = Scene(gpu)
    with pytest.raises(Violation, match=message):
        fault(scene)
        scene.driver.finish()
    with pytest.raises(Violation, match=message):
        scene.driver.finish()
    scene.driver.abandoned = True


def test_what_is_left_is_told(gpu: Gpu) -> None:
    memory = gpu.allocate(8, "test")
    with pytest.raises(Violation, match=r"not given back: device memory 1 \(8 bytes\)"):
        driver_of(gpu).finish()
    del memory
    stream = gpu.new_stream()
    with pytest.raises(Violation, match=r"not destroyed: \['Stream'\]"):
        driver_of(gpu).finish()
    assert stream


class Cycle:
    """Memory that only the collector gives back."""

    def __init__(self, gpu: Gpu) -> None:
        self.memory, self.itself = gpu.allocate(8, "test"), self


def test_the_collector_does_not_end_a_capture(gpu: Gpu) -> None:
    """Memory in a cycle would be given back in the midst of it, which CUDA does not allow."""
    stream, driver = gpu.new_stream(), driver_of(gpu)
    before = gc.get_threshold()

    def work() -> None:
        gpu.clear(memory.address, 8, stream)
        _ = [[] for _ in range(9999)]

    memory = gpu.allocate(8, "test")
    try:
        gc.set_threshold(1, 1, 1)
        gc.disable()
        Cycle(gpu)
        gc.enable()
        graph = gpu.capture(stream, work)
        assert gc.isenabled()
    finally:
        gc.set_threshold(*before)
    graph.launch(stream)
    assert not driver.violations


def test_memory_may_go_in_a_thread_that_never_used_the_gpu(gpu: Gpu) -> None:
    held = [gpu.allocate(8, "test"), gpu.pinned(8), Event(gpu)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert not driver_of(gpu).violations and not driver_of(gpu).heap.live


def test_a_staging_buffer_goes_once_its_copy_is_done(gpu: Gpu) -> None:
    stream, memory, staging = gpu.new_stream(), gpu.allocate(8, "test"), StagingBuffer(gpu)
    staging.take(8, 0)
    gpu.upload(memory.address, staging.given.address, 8, stream)
    staging.event.record(stream)
    del staging
    gc.collect()
    assert not driver_of(gpu).violations and [block.kind for block in driver_of(gpu).heap.live] == ["device"]


def test_a_capture_that_waits_is_refused_as_cuda_does(gpu: Gpu) -> None:
    stream = gpu.new_stream()
    with warnings.catch_warnings(), pytest.raises(device.CudaError, match="CAPTURE_UNSUPPORTED"):
        gpu.capture(stream, lambda: gpu.synchronize(stream))
    gpu.synchronize(stream)
