"""The CUDA back-end keeps the driver's rules: random turns, batches and cancels on a stand-in driver that checks.

``LUVC_SEQUENCES`` says how many sequences; ``make native`` runs 1,000.
"""

from __future__ import annotations

import ctypes
import os
import random
from typing import Any

import ort_engine
import pytest
import stand_in
from ort_engine import Engines

from luvc_export.bundle.folder import Bundle
from luvc_export.demo.questions import cases
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.cuda.driver import CudaError
from luvc_export.runtime.session import Session

SEQUENCES = int(os.environ.get("LUVC_SEQUENCES", "6"))
FORMS = ("concat", "inplace")


@pytest.fixture(autouse=True)
def _checked(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("STAND_IN_BYTES", str(512 << 20))
    stand_in.forget_violations()
    yield
    stand_in.forget_violations()


@pytest.fixture(scope="module")
def engines(demo_bundle: Bundle) -> dict[str, Engines]:
    capacity = ort_engine.Capacity(text=96, groups=2, batch=3)
    return {kv: ort_engine.describe(demo_bundle, "thirds", kv, capacity) for kv in FORMS}


@pytest.mark.parametrize("lazy", ["", "1"], ids=["at once", "put off"])
@pytest.mark.parametrize("kv", FORMS)
def test_random_turns_batches_and_cancels_break_no_rule(
    engines: dict[str, Engines], monkeypatch: pytest.MonkeyPatch, kv: str, lazy: str
) -> None:
    if lazy:
        monkeypatch.setenv("STAND_IN_LAZY", lazy)
    backend, _ = engines[kv].backend(Gpu(library=stand_in.library()))
    session = Session(engines[kv].bundle, backend, "thirds")
    asked = [next(cases("heldout", 1, seed, ("digit_of_colour",))) for seed in range(3)]
    chance = random.Random(f"{kv} {lazy}")
    for sequence in range(max(1, SEQUENCES // 4)):
        before = None
        for _ in range(chance.randrange(1, 4)):
            case, length = chance.choice(asked), chance.randrange(1, 4)
            kind = chance.choice(["turn", "batch", "cancel"])
            if kind == "batch":
                asks: Any = [{"image": c.images[0], "prompt": c.prompt} for c in chance.sample(asked, 2)]
                session.generate_batch(asks, max_new_tokens=length)
            elif kind == "cancel":
                stream = session.generate(case.images[0], case.prompt, stream=True, max_new_tokens=4)
                next(iter(stream))
                stream.close()
            else:
                image = None if before is not None else case.images[0]
                before = session.generate(image=image, prompt=case.prompt, after=before, max_new_tokens=length)
                if len(before.token_ids) == 0 or chance.random() < 0.5:
                    before = None
        assert not stand_in.violations(), f"sequence {sequence}: {stand_in.violations()}"


def refused(gpu: Gpu, name: str, *arguments: Any) -> str:
    with pytest.raises(CudaError):
        gpu.driver(name, *arguments)
    said = stand_in.violations()
    stand_in.forget_violations()
    return said


def test_the_driver_sees_what_a_gpu_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule broken once."""
    monkeypatch.setenv("STAND_IN_LAZY", "1")
    gpu = Gpu(library=stand_in.library())
    stream, other = gpu.new_stream(), gpu.new_stream()
    block, host = gpu.allocate(64, "test"), gpu.pinned(64)
    address = block.address
    assert "target is no device memory" in refused(gpu, "cuMemcpyHtoDAsync_v2", address, host.address, 65, stream)
    assert "source is no device memory" in refused(gpu, "cuMemcpyDtoHAsync_v2", host.address, address + 60, 8, stream)
    assert "target is device memory" in refused(gpu, "cuMemcpyDtoHAsync_v2", address, address, 8, stream)
    assert "its ranges overlap" in refused(gpu, "cuMemcpyDtoDAsync_v2", address, address + 4, 8, stream)
    assert "target is no device memory" in refused(gpu, "cuMemsetD8Async", host.address, 0, 8, stream)
    gpu.upload(address, host.address, 64, stream)
    assert "nothing waited for it" in refused(gpu, "cuMemsetD8Async", address, 0, 64, other)
    gpu.synchronize(stream)
    gpu.clear(address, 64, other)
    gpu.synchronize(other)
    gpu.driver("cuStreamBeginCapture_v2", stream, 1)
    assert "captures a stream" in refused(gpu, "cuMemAlloc_v2", None, 64)
    assert "captures a stream" in refused(gpu, "cuMemHostAlloc", None, 64, 0)
    assert "is being captured" in refused(gpu, "cuStreamBeginCapture_v2", stream, 1)
    graph = gpu_graph(gpu, stream)
    assert "no stream that is being captured" in refused(gpu, "cuStreamEndCapture", stream, None)
    gpu.driver("cuGraphDestroy", graph)
    assert "destroyed before" in refused(gpu, "cuGraphDestroy", graph)
    assert "no such graph" in refused(gpu, "cuGraphLaunch", graph, stream)
    assert "no such memory" in refused(gpu, "cuMemFree_v2", address + 8)
    assert "no such memory" in refused(gpu, "cuMemFreeHost", address)
    assert "no such event" in refused(gpu, "cuEventRecord", address, stream)
    assert "it is gone" in refused(gpu, "cuMemsetD8Async", address, 0, 8, address)


def gpu_graph(gpu: Gpu, stream: int) -> Any:
    graph = ctypes.c_void_p()
    gpu.driver("cuStreamEndCapture", stream, ctypes.byref(graph))
    return graph
