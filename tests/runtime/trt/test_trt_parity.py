"""``parity`` of engines against the bundle they are made from, on the stand-in GPU (see ort_engine)."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import ort_engine
import pytest
import stand_in
from ort_engine import Engines

from luvc_export.bundle.folder import Bundle, write_manifest
from luvc_export.calibration import runners
from luvc_export.calibration.cases import Case
from luvc_export.calibration.parity.result import ParityResult
from luvc_export.calibration.parity.run import parity
from luvc_export.calibration.parity.tolerances import TABLE, tolerances
from luvc_export.calibration.runners.graph import GraphRunner
from luvc_export.calibration.tasks import find
from luvc_export.cli import main
from luvc_export.core import graph_io
from luvc_export.engines.profiles import Capacity
from luvc_export.runtime.cuda.device import Gpu

PLAN = "thirds"
#: Room for more images than are asked about, so that rows in place do not start where their cache does.
CAPACITY = Capacity(text=96, groups=2, logits=96)


@pytest.fixture(scope="module")
def cases() -> Sequence[Case]:
    """Two questions of different lengths, which share a batch in the bundle, and one about two pictures."""
    task = find("glyph")
    asked = list(task.cases(task.report[0], 60, 5))
    single = sorted((case for case in asked if len(case.images) == 1), key=lambda case: len(case.prompt))
    return [single[0], single[-1], next(case for case in asked if len(case.images) == 2)]


@pytest.fixture(scope="module")
def reference(demo_bundle: Bundle) -> GraphRunner:
    return runners.open_bundle(str(demo_bundle.folder), PLAN, threads=1)


def engines(bundle: Bundle, kv: str, capacity: Capacity = CAPACITY) -> Engines:
    return ort_engine.describe(bundle, PLAN, kv, capacity)


def runner(engines: Engines) -> GraphRunner:
    backend, _ = engines.backend(Gpu(library=stand_in.library()))
    return runners.open_engine(engines.bundle, PLAN, backend=backend)


def compared(reference: Any, candidate: Any, cases: Sequence[Case], longest: int = 4) -> ParityResult:
    return parity(reference, candidate, cases, longest=longest, stops=True)


def failed(result: ParityResult) -> set[str]:
    return {gate.name for gate in result.gates if not gate.passed}


@pytest.mark.parametrize("kv", ["concat", "inplace"])
def test_engines_agree_with_their_bundle_at_every_level(
    demo_bundle: Bundle, reference: GraphRunner, cases: Sequence[Case], kv: str
) -> None:
    candidate = runner(engines(demo_bundle, kv))
    assert (candidate.dtype, candidate.can_force) == ("fp32", False) and "engines for stand-in" in candidate.name
    result = compared(reference, candidate, cases, find("glyph").longest)
    assert result.passed and result.located is None, result.lines()
    assert {gate.level for gate in result.gates} == {"tensors", "tokens", "answers"}
    assert all(item.overlap and item.prediction for item in result.comparison.measured)
    parts = [f"layer {layer} {part}" for layer in range(reference.plan.layers) for part in ("key", "value")]
    assert [step.tensor for step in result.steps] == ["vision", *parts, "logits"]


def test_engines_that_give_few_logits_a_call_are_asked_again(
    demo_bundle: Bundle, reference: GraphRunner, cases: Sequence[Case]
) -> None:
    candidate = runner(engines(demo_bundle, "concat", dataclasses.replace(CAPACITY, logits=7)))
    result = compared(reference, candidate, cases[:1], 1)
    assert not failed(result) & {"relative L2", "KL of predictions", "top-1 agreement"}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tolerances_are_those_of_the_engine_s_precision(
    demo_bundle: Bundle, reference: GraphRunner, precision: str
) -> None:
    described = engines(demo_bundle, "concat")
    entry: Any = dataclasses.replace(described.bundle.manifest.engines[0], precision=precision)
    manifest = dataclasses.replace(described.bundle.manifest, engines=(entry,))
    candidate = runner(dataclasses.replace(described, bundle=Bundle(demo_bundle.folder, manifest)))
    assert tolerances(reference.dtype, candidate.dtype) is TABLE[precision]


def scaled(engines: Engines, weight: str) -> Engines:
    """The decoder with the product of ``weight`` 1.01 times as large."""
    model = onnx.ModelProto.FromString(engines.models["decoder"].SerializeToString())
    index, node = next((i, n) for i, n in enumerate(model.graph.node) if any(weight in name for name in n.input))
    wanted, node.output[0] = node.output[0], "before"
    model.graph.node.insert(index + 1, onnx.helper.make_node("Mul", ["before", "factor"], [wanted]))
    model.graph.initializer.append(onnx.helper.make_tensor("factor", onnx.TensorProto.FLOAT, [], [1.01]))
    return dataclasses.replace(engines, models={**engines.models, "decoder": model})


def test_a_scaled_weight_of_the_engine(demo_bundle: Bundle, reference: GraphRunner, cases: Sequence[Case]) -> None:
    candidate = runner(scaled(engines(demo_bundle, "concat"), "layers.1.mlp.down_proj.weight"))
    result = compared(reference, candidate, cases[:1], 1)
    assert "relative L2" in failed(result) and result.located is not None
    assert result.located.tensor == "layer 2 key" and "layer 1's attention" in result.located.suspect


@pytest.mark.parametrize(("name", "shift"), [(graph_io.POSITION_IDS, 1), (graph_io.ORDER, -1000)])
def test_a_shifted_input_of_the_engine(
    demo_bundle: Bundle, reference: GraphRunner, cases: Sequence[Case], name: str, shift: int
) -> None:
    """Rotary positions of text one further, and text that comes before every picture."""
    candidate = runner(engines(demo_bundle, "inplace"))
    backend = candidate.calls.backend  # type: ignore[attr-defined]
    honest = backend.decode
    backend.decode = lambda feeds, cache: honest({**feeds, name: feeds[name] + shift}, cache)
    assert {"relative L2", "worst row, relative L2"} <= failed(compared(reference, candidate, cases[:1], 1))


def test_rows_of_the_wrong_place_in_a_cache(demo_bundle: Bundle, reference: GraphRunner, cases: Sequence[Case]) -> None:
    """Logits are right: keys and values alone show it."""
    candidate = runner(engines(demo_bundle, "inplace"))
    backend = candidate.calls.backend  # type: ignore[attr-defined]
    honest = backend.read_states
    backend.read_states = lambda cache: [np.roll(one, index % 2, 2) for index, one in enumerate(honest(cache))]
    result = compared(reference, candidate, cases[:1], 1)
    assert "relative L2" in failed(result) and "greedy agreement" not in failed(result)
    assert result.located is not None and result.located.tensor == "layer 0 value"


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``luvc-export parity`` of a bundle with itself and what ``#`` is followed by: exit code and message."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    def run(folder: Path, chosen: str) -> tuple[int, str]:
        arguments = ["parity", f"{folder}#{PLAN}", f"trt:{folder}#{chosen}", "--task", "glyph", "--threads", "1"]
        monkeypatch.setattr(sys, "argv", ["luvc-export", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().err

    return run


def test_what_is_missing_is_said(demo_bundle: Bundle, copied_bundle: Path, refused: Any) -> None:
    code, message = refused(copied_bundle, PLAN)
    assert code == 2 and "there is no such engine" in message and "luvc-export build" in message
    write_manifest(copied_bundle, engines(demo_bundle, "concat").bundle.manifest)
    code, message = refused(copied_bundle, f"{PLAN}@stand-out")
    assert code == 2 and "did you mean 'stand-in'" in message
    code, message = refused(copied_bundle, f"{PLAN}@stand-in")
    assert code == 3 and message.startswith("error: tensorrt is not installed") and "Traceback" not in message
