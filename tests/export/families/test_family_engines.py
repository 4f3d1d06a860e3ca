"""Engines and packs of models that keep more than keys and values: states of two families, places of two others.

ONNX Runtime executes the graphs that engines are built from, on the checking driver (``ort_engine``, ``checked_cuda``).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import ort_engine
import pytest
import stand_in
from checked_cuda import sequences
from checked_cuda.sequences import Machine
from family_questions import SLIDING
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from ort_engine import Engines
from packing import jetson_root
from slow_cases import slow_but

from luvc_export.bundle import graph_trust
from luvc_export.bundle.folder import Bundle
from luvc_export.engines import builder
from luvc_export.engines.profiles import Capacity
from luvc_export.export.surgeon import cache_slots
from luvc_export.export.surgeon.passes import cast_precision, inplace_kv
from luvc_export.packing import questions
from luvc_export.packing.on_device import install_and_verify
from luvc_export.packing.questions import PackCases
from luvc_export.packing.write import write_pack
from luvc_export.pipeline import prepare_build
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.host.windows import Windows
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.cache_memory import CacheMemory

FAMILIES = ("lfm2_vl", "qwen3_5", *SLIDING)
SEED, SHARE = 5, 2
PARTS = cache_slots.mask_parts
CAPACITY = Capacity(text=96, groups=2, batch=3, logits=96)


def engines(bundle: Bundle, kv: str, capacity: Capacity = CAPACITY) -> Engines:
    return ort_engine.describe(bundle, bundle.manifest.default_plan, kv, capacity)


@pytest.fixture(scope="module")
def described(bundles: Any) -> Callable[[str, str], Engines]:
    """Graphs by family and form of caches: surgery is done once for all that run them."""
    return cache(lambda name, kv: engines(bundles(name), kv))


@pytest.fixture(scope="module")
def expected(bundles: Any) -> Callable[[str], list[Any]]:
    """ONNX Runtime's logits and states by family, of all rows: engines keep what has left a window."""

    @cache
    def of(name: str) -> list[Any]:
        theirs = Session(bundles(name), threads=1)
        theirs.default.graphs.windows = Windows((), theirs.default.plan)
        return [(step.logits, step.state.cache.floats()) for step in steps(theirs)]

    return of


def on_engines(engines: Engines) -> Session:
    return Session(engines.bundle, engines.backend(Gpu(library=stand_in.library()))[0], engines.plan)


@pytest.mark.parametrize(
    ("name", "kv"),
    slow_but(
        [("lfm2_vl", "concat")],
        [
            ("lfm2_vl", "concat"),
            ("lfm2_vl", "inplace"),
            ("qwen3_5", "inplace"),
            ("gemma3", "concat"),
            ("gemma4", "inplace"),
        ],
    ),
)
def test_random_sequences(name: str, kv: str, bundles: Any, described: Any) -> None:
    """Turns, rows that join and leave, states gone on from twice: each answer is ONNX Runtime's alone."""
    bundle = bundles(name)
    asked = sequences.asked(bundle, bundle.manifest.default_plan)
    machine = Machine(described(name, kv), asked, random.Random(SEED), graphs=True)
    for doing in (machine.turn, machine.again, machine.join, machine.join, machine.turn):
        doing()
    for _ in range(SHARE):
        machine.sequence()
    launched = machine.close().calls["cuGraphLaunch"]
    assert launched > 0 or kv == "concat"


def steps(session: Session) -> list[Any]:
    """Two pictures with every logit, then two ways on: a token, and three."""
    shown = [np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3)] * 2
    request = session.prepare(shown, "Hi " + "word " * 9)
    first = session.default.run(request.token_ids, session.default.encode_images(*request.shown()), all_logits=True)
    return [first, *(session.default.run(ids, state=first.state) for ids in ([5], [7, 8, 9]))]


def differs(engines: Engines, expected: list[Any]) -> float:
    """Largest difference of any logit or state from ONNX Runtime's."""
    ours, worst = on_engines(engines), 0.0
    for mine, (logits, states) in zip(steps(ours), expected, strict=True):
        worst = max(worst, float(np.abs(mine.logits - logits).max()))
        held = ours.backend.read_states(mine.state.cache)  # type: ignore[attr-defined]
        assert [one.shape for one in held] == [one.shape for one in states]
        worst = max(worst, *(float(np.abs(one - two).max()) for one, two in zip(held, states, strict=True) if one.size))
    return worst


@pytest.mark.parametrize("kv", sequences.FORMS)
@pytest.mark.parametrize("name", slow_but(["lfm2_vl", "gemma3"], FAMILIES))
def test_states_are_those_of_the_bundle(name: str, kv: str, described: Any, expected: Any) -> None:
    assert differs(described(name, kv), expected(name)) < 1e-4


def _last_columns(surgery: Any, order: Any, call: Any) -> Any:
    """As in graphs whose caches grow: wrong where the mask is of slots."""
    size = surgery.emit("Shape", [order], start=1, end=2)[0]
    first = surgery.emit("Neg", [size])[0]
    return surgery.emit("Slice", [call.text_mask, first, [2**31 - 1], [1]])[0]


@pytest.mark.parametrize(
    ("name", "of", "part", "fault"),
    slow_but(
        ["gemma3", "lfm2_vl"],
        [
            ("gemma3", cache_slots, "mask_parts", lambda mask: (PARTS(mask)[0], None)),
            ("lfm2_vl", cache_slots, "_new_text", _last_columns),
            ("gemma4", inplace_kv, "_place_rows", lambda *arguments: None),
            ("lfm2_vl", CacheMemory, "begin", lambda *arguments: None),
        ],
    ),
    ids=["window", "mask", "places", "zeros"],
)
def test_a_fault_is_found(
    name: str, of: Any, part: str, fault: Any, bundles: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window forgotten, padding read from the wrong slots, places that stay, states that do not begin as zeros."""
    right = expected(name)
    monkeypatch.setattr(of, part, fault)
    faulty = engines(bundles(name), "inplace", Capacity(text=95 + len(part), groups=2, logits=95))
    if of is CacheMemory:
        ours = on_engines(faulty)
        first, second = steps(ours)[0], steps(ours)[0]
        del first
        assert np.abs(second.logits - right[0][0]).max() > 1e-2
    elif part == "_place_rows":  # places of the call alone do not fit beside the slots of its caches
        with pytest.raises(Fail, match=r"luvc\.inplace_kv\.And(.|\n)*Attempting to broadcast an axis"):
            differs(faulty, right)
    else:
        assert differs(faulty, right) > 1e-2


@pytest.mark.slow(beside="engines/test_build_batch.py::test_plans_of_1_and_16_rows_hold_the_weights_once")
def test_the_delta_rule_stays_in_fp32(bundles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its body is inlined in a bundle's graph, which the build makes 16-bit; a mask of -1e30 would overflow there."""
    bundle = bundles("qwen3_5")
    decoder = prepare_build(bundle, "rtx-ada", precision="fp16").graphs[1]
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(decoder.data))
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*model.graph.value_info, *model.graph.output)}
    rule = [node for node in model.graph.node if node.name.startswith(cast_precision.RULE)]
    products = [node for node in rule if node.op_type == "MatMul"]
    assert len(products) > 40 and {kinds[node.output[0]] for node in products} == {onnx.TensorProto.FLOAT}
    ends = (*model.graph.input, *model.graph.output)
    states = {item.type.tensor_type.elem_type for item in ends if "_states." in item.name}
    assert states == {onnx.TensorProto.FLOAT}
    monkeypatch.setattr(cast_precision, "_is_state_arithmetic", lambda node: False)
    with pytest.raises(RuntimeWarning, match="overflow"):
        prepare_build(bundle, "rtx-ada", precision="fp16")


@pytest.mark.slow(beside="engines/test_build_batch.py::test_plans_of_1_and_16_rows_hold_the_weights_once")
def test_activations_of_the_delta_rule_are_predicted(bundles: Any, tmp_path: Path) -> None:
    """Sizes of its chunks are computed in the graph, and the engine keeps more of it alive than their order asks."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]'")
    plan = prepare_build(bundles("qwen3_5"), "rtx-ada", precision="fp32", text_capacity=256)
    engine = builder.build(plan.graphs[1], tmp_path / "engine", plan.target, plan.capacity, plan.options)
    assert engine.activation_bytes is not None
    assert 0 < engine.activation_bytes <= plan.footprint.activations <= 3 * engine.activation_bytes


@pytest.mark.slow(beside="packing/test_pack.py::test_a_pack_with_caches_in_place_passes")
@pytest.mark.parametrize(("name", "jetpack"), [("qwen3_5", "7.2"), ("gemma4", "6.2")])
def test_packs_answer(
    name: str, jetpack: str, bundles: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In fp16, as its graphs are, both forms of caches; the reference is the bundle's in fp32."""
    bundle, target = bundles(name), jetson_root.TARGETS[jetpack]
    graph_trust.remember_own(bundle)

    def asked(session: Session, capacity: Capacity) -> PackCases:
        return PackCases("generated", questions.generated(session.size, 1), 6)

    packed = write_pack(bundle, target, tmp_path / "pack", asked, text_capacity=128)
    assert packed.pack.kv == {"6.2": "concat", "7.2": "inplace"}[jetpack]
    capsys.readouterr()  # what an export printed, where this test asked for the bundle first
    code = install_and_verify(packed.folder, "cpu", jetson_root.write(tmp_path / "board", jetpack), rebuild=False)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "") and "PASSED: 1 of 1 cases, onnxruntime" in out.splitlines()[-1], (out, err)
