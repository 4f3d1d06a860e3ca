"""One thread on a CPU with AMX: no fused MLP, which would end the process. Shown in the graph, on any CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino import rewrites
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.openvino.model import GraphReader

pytest.importorskip("openvino", reason="pip install 'luvc-export[openvino]'")


@pytest.mark.parametrize("plan", ["none", "thirds"])
def test_every_mlp_of_the_decoder_is_interrupted(short_bundle: Bundle, plan: str) -> None:
    entry, layers = short_bundle.entry(plan), short_bundle.manifest.decoder.layers
    model = GraphReader(short_bundle).read(entry.decoder).model
    assert rewrites.keep_products_apart(devices.load_library(), model) == layers
    clamps = [node for node in model.get_ops() if node.get_type_name() == "Clamp"]
    readers = {port.get_node().get_type_name() for node in clamps for port in node.output(0).get_target_inputs()}
    assert len(clamps) == layers and readers == {"MatMul"}


@pytest.mark.skipif("bf16" not in devices.find("CPU").arithmetics, reason="this CPU has no bf16")
@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_has_no_fused_mlp(short_bundle: Bundle, threads: int) -> None:
    """On a CPU with AMX one thread ended the process here."""
    backend = OpenVinoBackend(short_bundle, short_bundle.entry("none"), arithmetic="bf16", threads=threads)
    backend.load(images=False)
    fused = backend.precisions()["decoder"].get("LLMMLP", {})
    amx = "amx_bf16" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else False
    assert bool(fused) == (amx and threads == 2)


@pytest.mark.parametrize(("threads", "cores", "one"), [(1, 8, True), (None, 1, True), (None, 2, False), (2, 1, False)])
def test_what_one_thread_is(threads: int | None, cores: int, one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert rewrites.is_one(threads) is one
