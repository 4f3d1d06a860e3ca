"""Caches in codes on engines: int8 in slots of fixed capacity, new rows behind them, answers those of ONNX Runtime."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import ort_engine
import pytest
import stand_in
from checked_cuda import sequences
from ort_engine import Engines

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration import datasets
from luvc_export.calibration.parity.compare import compare
from luvc_export.calibration.parity.result import check_gates
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches
from luvc_export.calibration.runners import open_bundle, open_engine
from luvc_export.calibration.tasks import find
from luvc_export.core.budgets import kv_bytes
from luvc_export.engines import builder, targets
from luvc_export.engines.memory import KvCacheSpec
from luvc_export.engines.options import BuildOptions
from luvc_export.engines.profiles import Capacity
from luvc_export.pipeline import prepare_build
from luvc_export.runtime.cuda.device import Gpu
from luvc_export.runtime.session import Session
from luvc_export.runtime.tensorrt.new_rows import NewRows

PLAN, CAPACITY = "thirds_kv8", Capacity(text=96, groups=2, logits=96)


@pytest.fixture(scope="module")
def coded(unpadded_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of two layers, and four cases about two pictures."""
    folder, data = tmp_path_factory.mktemp("codes") / "bundle", datasets.load("glyph", count=28)
    data = replace(data, cases=data.cases[::7], pixels=data.pixels[::7])
    return calibrate_caches(unpadded_bundle, data, "int8", output=folder, min_agreement=0, threads=1).bundle


@pytest.fixture(scope="module")
def engines(coded: Bundle) -> Engines:
    return ort_engine.describe(coded, PLAN, "append", CAPACITY)


@pytest.fixture(scope="module")
def question() -> tuple[Any, str]:
    task = find("glyph")
    case = next(case for case in task.cases(task.report[0], 20, 5) if len(case.images) == 1)
    return case.images[0], case.prompt


@pytest.fixture
def gpu() -> Gpu:
    return Gpu(library=stand_in.library())


def steps(session: Session, question: tuple[Any, str]) -> list[Any]:
    """A prompt of two pictures, a token, three tokens, and another token in place of those."""
    image, prompt = question
    request = session.prepare([image, image], prompt)
    first = session.default.run(request.token_ids, session.default.encode_images(request.images), all_logits=True)
    second = session.default.run([5], state=first.state)
    third = session.default.run([6, 7, 8], state=second.state, all_logits=True)
    return [first, second, third, session.default.run([9], state=second.state)]


def farthest(ours: list[Any], theirs: list[Any]) -> list[float]:
    return [float(np.abs(one.logits - other.logits).max()) for one, other in zip(ours, theirs, strict=True)]


def test_every_call_sees_the_codes_that_onnx_runtime_sees(
    coded: Bundle, engines: Engines, gpu: Gpu, question: tuple[Any, str]
) -> None:
    backend, _ = engines.backend(gpu)
    theirs = steps(Session(coded, plan=PLAN, threads=1), question)
    for _ in range(2):  # the second time from CUDA graphs
        ours = steps(Session(engines.bundle, backend, PLAN), question)
        assert max(farthest(ours, theirs)) < 1e-4
    for one, other in zip(ours, theirs, strict=True):
        assert one.state.cache.lengths == other.state.cache.lengths
        assert {layer: rows.tolist() for layer, rows in one.kept.items()} == {
            layer: rows.tolist() for layer, rows in other.kept.items()
        }
    kinds = {array.dtype.name for array in backend.read_states(ours[-1].state.cache)}
    assert kinds == {"int8", "float32"}


def test_a_wrong_scale_and_a_row_in_a_wrong_slot_are_seen(
    coded: Bundle, engines: Engines, gpu: Gpu, question: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a call brings it sees as floats, so the prompt's logits are right all the same."""
    theirs = steps(Session(coded, plan=PLAN, threads=1), question)
    backend, opened = engines.backend(gpu)
    backend.load()
    opened["decoder"].sabotage["present_states.1.value_scale"] = lambda scale: scale * np.float32(1.2)
    first, *later = farthest(steps(Session(engines.bundle, backend, PLAN), question), theirs)
    assert first < 1e-4 and min(later) > 1e-3
    opened["decoder"].sabotage.clear()
    right = NewRows.first
    monkeypatch.setattr(NewRows, "first", lambda rows, part, text: right(rows, part, text) - (rows.groups > 0))
    first, *later = farthest(steps(Session(engines.bundle, backend, PLAN), question), theirs)
    assert first < 1e-4 and min(later) > 1e-3


def test_caches_take_half_of_what_one_set_in_sixteen_bits_takes(
    coded: Bundle, engines: Engines, gpu: Gpu, question: tuple[Any, str]
) -> None:
    """The stand-in's heads have 32 channels: 34 bytes in place of 64, and four more where scales are fp32."""
    backend, _ = engines.backend(gpu)
    session: Any = Session(engines.bundle, backend, PLAN)
    sizes = {session.generate(*question, max_new_tokens=3).timings.kv_mib for _ in range(2)}
    planned: Any = backend._kv
    assert planned.sets == len(backend._caches.blocks()) == 1 and sizes == {planned.region.nbytes / 2**20}
    shape = coded.manifest.decoder
    wanted = sum(kv_bytes(shape, [2 * keep for keep in coded.entry(PLAN).plan.keep], 96, codes=True))
    size = shape.head_dim
    assert planned.region.nbytes == pytest.approx(wanted * (size + 2) / (size + 1), rel=0.01)
    plan, forms = coded.entry(PLAN).plan, (("append", True), ("concat", False))
    predicted, twice = (KvCacheSpec(plan, shape, CAPACITY, "fp16", kv, codes).bytes for kv, codes in forms)
    assert predicted / twice == pytest.approx((size + 1) / (2 * size) / 2, rel=1e-3)


def test_parity_compares_what_codes_stand_for(
    coded: Bundle, engines: Engines, gpu: Gpu, question: tuple[Any, str]
) -> None:
    candidate = open_engine(engines.bundle, PLAN, backend=engines.backend(gpu)[0])
    assert candidate.dtype == "fp32 with int8 caches"
    task = find("glyph")
    cases = [case for case in task.cases(task.report[0], 20, 5) if len(case.images) == 1][:2]

    def failed() -> set[str]:
        result = compare(open_bundle(str(coded.folder), "thirds", 1), candidate, cases, observe=2, longest=4)
        return {gate.name for gate in check_gates(result) if gate.level != "answers" and not gate.passed}

    assert not failed()
    calls: Any = candidate.calls
    right = calls.states
    calls.states = lambda cache: [value * np.float32(1.2) for value in right(cache)]
    assert "relative L2" in failed()


@pytest.mark.slow(beside="runtime/trt/test_checked_session.py::test_random_sequences")
def test_random_sequences_on_the_checking_driver(coded: Bundle) -> None:
    """Turns, batches, cancels and states that are kept, with every answer compared and every copy checked."""
    counts = sequences.run(coded, 7, 4, of_a_machine=2, plan=PLAN)
    assert counts.sequences == 4 and len(counts.kinds) >= 5


def test_types_of_16_bit_graphs_fit(coded: Bundle) -> None:
    """Networks are strongly typed; scales are FP16 in bf16 too. TensorRT-RTX reads those of fp16 below."""
    prepared = prepare_build(coded, "rtx-ada", PLAN, precision="bf16", text_capacity=64)
    model = onnx.load_model_from_string(prepared.graphs[1].data)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*model.graph.input, *model.graph.output)}
    for name in ("past_states.0.value_scale", "present_states.0.value_scale"):
        assert kinds[name] == onnx.TensorProto.FLOAT16


@pytest.mark.slow(beside="calibration/quantise/test_quantise_engines.py::test_tensorrt_rtx_takes_it")
def test_tensorrt_rtx_builds_it(coded: Bundle, tmp_path: Path) -> None:
    """Codes go in and out as INT8, and scales as FP16."""
    pytest.importorskip("tensorrt_rtx")
    prepared = prepare_build(coded, "rtx-ada", PLAN, precision="fp16", text_capacity=64)
    file = tmp_path / "decoder.engine"
    options = BuildOptions(builder_optimization_level=0)
    built = builder.build(prepared.graphs[1], file, targets.find("rtx-ada"), prepared.capacity, options)
    kinds = {binding.name: binding.dtype for binding in (*built.inputs, *built.outputs)}
    for name in ("past_key_values.0.key", "past_key_values.1.value", "present.0.key", "present.1.value"):
        assert kinds[name] == "int8"
    assert kinds["past_states.0.value_scale"] == kinds["present_states.0.value_scale"] == "float16"


def test_graphs_for_tensorrt_10_3_keep_codes_between_q_and_dq(coded: Bundle) -> None:
    """Its allow-list is checked when they are made; its rule on INT8, here."""
    prepared = prepare_build(coded, "jetson-agx-orin-jp62", PLAN, text_capacity=64)
    model = onnx.load_model_from_string(prepared.graphs[1].data)
    codes = {item.name for item in model.graph.input if item.type.tensor_type.elem_type == onnx.TensorProto.INT8}
    new_codes = {item.name for item in model.graph.output if item.type.tensor_type.elem_type == onnx.TensorProto.INT8}
    assert len(codes) == len(new_codes) == 2 * coded.manifest.decoder.layers
    assert {node.op_type for node in model.graph.node if codes & {*node.input}} == {"DequantizeLinear"}
    assert {node.op_type for node in model.graph.node if new_codes & {*node.output}} == {"QuantizeLinear"}
    assert prepared.kv == "append" and model.opset_import[0].version == 20


def test_rows_side_by_side_answer_as_each_alone(coded: Bundle, question: tuple[Any, str], gpu: Gpu) -> None:
    """Several questions at once, rows joining as others end, equal to each alone."""
    capacity = Capacity(text=96, groups=2, batch=3)
    backend, _ = ort_engine.describe(coded, PLAN, "append", capacity).backend(gpu)
    session, alone = Session(coded, backend, PLAN), Session(coded, plan=PLAN, threads=1)
    chance, image = random.Random(1), question[0]
    asked = [{"image": image, "prompt": question[1] + " please" * chance.randint(0, 3)} for _ in range(5)]
    answers = session.generate_batch(asked, max_new_tokens=5)
    wanted = [alone.generate(**one, max_new_tokens=5).token_ids for one in asked]
    assert [answer.token_ids for answer in answers] == wanted
