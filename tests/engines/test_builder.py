"""The builder on small graphs, with TensorRT-RTX, on a machine without a GPU."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import threading
from pathlib import Path
from typing import Any

import onnx.parser
import pytest
from flat_plans import flat_plan

from luvc_export.engines import build_monitor, builder, library, targets
from luvc_export.engines.builder import BuildInput
from luvc_export.engines.options import BuildOptions
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import CheckFailed, MachineError, UsageError

PLAN = flat_plan((1, 4), (4, 4), last_layer="full")
RTX = targets.find("rtx-ada")
GOOD = "g (float[batch, text] order) => (float[batch, text] y) { y = Relu(order) }"
#: RTX 1.7 takes Attention-24 but not its seventh input, nonpad_kv_seqlen: as it is, or computed.
DROPPED = {
    "input n": """g (float16[1, 2, 8, 16] q, float16[1, 2, 8, 16] k, float16[1, 2, 8, 16] v, int64[1] n)
        => (float16[1, 2, 8, 16] y) { y = Attention (q, k, v, , , , n) }""",
    "ELEMENTWISE (node_0)": """g (float16[1, 2, 8, 16] q, float16[1, 2, 8, 16] k, float16[1, 2, 8, 16] v, int64[1] n)
        => (float16[1, 2, 8, 16] y) { m = Add (n, n) y = Attention (q, k, v, , , , m) }""",
}
#: No back-end has this operator.
REFUSED = "g (float[4, 4] x) => (float[4, 4] y) { a = Relu(x) y = Whatever (a) }"


def graph(text: str, opset: int = 24) -> BuildInput:
    model: Any = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> {text}')
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    return BuildInput("graph.onnx", model.SerializeToString(), Path(), PLAN, 64)


def build(text: str, output: Path, **options: Any) -> builder.Built:
    return builder.build(graph(text), output, RTX, Capacity(8), BuildOptions(**options))


def test_an_engine_is_built_where_there_is_no_gpu(tmp_path: Path) -> None:
    shares: list[float] = []
    output = tmp_path / "x.engine"
    built = builder.build(
        graph(GOOD), output, RTX, Capacity(8), BuildOptions(), lambda stage, done: shares.append(done)
    )
    assert output.stat().st_size > 1000 and [path.name for path in tmp_path.iterdir()] == ["x.engine"]
    assert built.inputs[0].name == "order" and built.inputs[0].shape == (-1, -1)
    assert built.profiles[0].maximum == {"order": (1, 8)}
    assert shares == sorted(shares) and shares[-1] == 1.0
    described = json.loads(built.layers)
    assert described["layers"] and (described["source"] == "network") == (library.compute_capability() is None)
    assert "[INFO]" in built.log and "[VERBOSE]" not in built.log
    assert built.activation_bytes is not None


def test_what_the_parser_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"parser refuses the graph[\s\S]*node_1 \(Whatever\)") as got:
        build(REFUSED, tmp_path / "x.engine")
    assert got.value.exit_code == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", DROPPED)
def test_an_input_the_parser_drops_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"drops an input of a node[\s\S]*got: read by nothing: " + re.escape(name)):
        build(DROPPED[name], tmp_path / "x.engine")
    assert not list(tmp_path.iterdir())


def test_what_the_builder_warns_of_is_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_monitor, "unread", lambda network: [])
    with pytest.raises(CheckFailed, match="read by nothing: Unused Input: n"):
        build(DROPPED["input n"], tmp_path / "x.engine")
    assert not list(tmp_path.iterdir())


def test_rubbish_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="Failed to parse the ONNX model"):
        builder.build(
            BuildInput("x.onnx", b"rubbish", tmp_path, PLAN, 1), tmp_path / "x", RTX, Capacity(8), BuildOptions()
        )


def test_replaceable_weights_need_a_gpu(tmp_path: Path) -> None:
    if library.compute_capability() is not None:
        pytest.skip("there is a GPU")
    with pytest.raises(MachineError, match=r"built on a GPU[\s\S]*got: no GPU") as got:
        build(GOOD, tmp_path / "x.engine", strip_weights=True)
    assert got.value.exit_code == 3


def test_a_level_this_library_lacks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(builder._LEVELS, "sameComputeCapability", "A_LEVEL_OF_LATER")
    portable = dataclasses.replace(RTX, library=dataclasses.replace(RTX.library, portable=True))
    options = BuildOptions(hardware_compatibility="sameComputeCapability")
    with pytest.raises(UsageError, match=r"has no such level[\s\S]*expected: ampere\+$"):
        builder.build(graph(GOOD), tmp_path / "x.engine", portable, Capacity(8), options)


def test_ctrl_c_stops_a_build_and_leaves_nothing(tmp_path: Path) -> None:
    def press(stage: str, done: float) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            builder.build(graph(GOOD), tmp_path / "x.engine", RTX, Capacity(8), BuildOptions(), press)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())


def test_a_build_in_a_thread_takes_no_signals(tmp_path: Path) -> None:
    worker = threading.Thread(target=build, args=(GOOD, tmp_path / "x.engine"))
    worker.start()
    worker.join()
    assert (tmp_path / "x.engine").is_file()


def test_activation_memory_is_read_from_the_log() -> None:
    assert build_monitor.activation_bytes([("INFO", "Total Activation Memory: 12 bytes"), ("INFO", "done")]) == 12
    assert build_monitor.activation_bytes([("INFO", "done")]) is None


def test_unused_inputs_and_errors_are_read_from_the_log() -> None:
    lines = [("WARNING", "x.cpp:1: Unused Input: n"), ("ERROR", "bad"), ("INFO", "used input")]
    assert build_monitor.unused_inputs(lines) == ["x.cpp:1: Unused Input: n"]
    assert build_monitor.problems(lines) == "bad" and build_monitor.problems([]) == "no reason given"


def test_caches_are_of_a_version_and_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = builder.cache_file("timing", "tensorrt", "10.3.0.26", "8.7")
    assert path == tmp_path / "luvc-export" / "tensorrt-10.3.0.26-sm87.timing"
    assert (
        builder.cache_file("runtime", "tensorrt_rtx", "1.7.1.116", "12.0").name
        == "tensorrt_rtx-1.7.1.116-sm120.runtime"
    )
    others = {builder.cache_file("timing", "tensorrt", v, c) for v in ("10.3.0", "10.16.1") for c in ("8.7", "8.9")}
    assert len(others) == 4
