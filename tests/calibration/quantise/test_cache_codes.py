"""Caches in codes: what a call brings is as before, what is past are codes, and each scale decides."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from slow_cases import slow_but
from typer.testing import CliRunner

from luvc_export.bundle import folder as bundles
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graphs import read_graph
from luvc_export.bundle.manifest import Manifest
from luvc_export.calibration import datasets
from luvc_export.calibration.datasets import CalibrationSet
from luvc_export.calibration.parity.compare import compare
from luvc_export.calibration.parity.result import check_gates
from luvc_export.calibration.quantise.cache_calibration import calibrate_caches
from luvc_export.calibration.quantise.cache_codes import (
    HEADROOM,
    LARGEST,
    magnitudes,
    scales_of,
    store_codes,
    turned_channels,
)
from luvc_export.calibration.runners import open_bundle
from luvc_export.calibration.runners.bundle import stood_for
from luvc_export.cli import app
from luvc_export.core import graph_io
from luvc_export.core.shapes import DecoderShape
from luvc_export.errors import BundleError, CheckFailed, UsageError
from luvc_export.pipeline.engines import prepare_build
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.openvino import device as devices
from luvc_export.runtime.openvino.backend import OpenVinoBackend
from luvc_export.runtime.ort import OrtBackend
from luvc_export.runtime.session import Session
from luvc_export.runtime.state import Step

PLAN, CODES = "thirds", "thirds_kv8"
HEADS, SHARED, SIZE, ROWS, TEXT = 2, 3, 16, 40, 5


@pytest.fixture(scope="module")
def data() -> CalibrationSet:
    data = datasets.load("glyph", count=28)  # about two pictures
    return dataclasses.replace(data, cases=data.cases[::7], pixels=data.pixels[::7])


@pytest.fixture(scope="module")
def stored(unpadded_bundle: Bundle, data: CalibrationSet, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    new = tmp_path_factory.mktemp("codes") / "bundle"
    return calibrate_caches(unpadded_bundle, data, "int8", output=new, min_agreement=0.5, threads=1).bundle


def outliers(seed: int = 0) -> NDArray[np.float32]:
    """Keys [1, HEADS, ROWS, SIZE] as Qwen2's: two channels have a bias that is fifty times what the others vary by."""
    random = np.random.default_rng(seed)
    keys = random.normal(size=(1, HEADS, ROWS, SIZE))
    keys[:, :, :, [1, 6]] += np.array([50, -80])
    return keys.astype(np.float32)


def attention_graph(joined_before: bool) -> onnx.ModelProto:
    """A decoder of one layer: attention takes caches itself, or reads what Concat joined; a second one reads it."""

    def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    past = [tensor(name, "b", HEADS, "p", SIZE) for name in graph_io.past_names(1)]
    present = [tensor(name, "b", HEADS, "t", SIZE) for name in map(graph_io.present_name, graph_io.past_names(1))]
    query = tensor("query", "b", HEADS * SHARED, "s", SIZE)
    if joined_before:
        new = [tensor(name, "b", HEADS, "s", SIZE) for name in ("key", "value")]
        joined = zip(past, new, present, strict=True)
        nodes = [helper.make_node("Concat", [old.name, one.name], [out.name], axis=2) for old, one, out in joined]
        nodes.append(helper.make_node("Attention", ["query", present[0].name, present[1].name], ["seen"]))
    else:
        new = [tensor(name, "b", "s", HEADS * SIZE) for name in ("key", "value")]
        flat = helper.make_node("Reshape", ["turned", "packed"], ["flat"])
        turned = helper.make_node("Transpose", ["query"], ["turned"], perm=[0, 2, 1, 3])
        heads = {"q_num_heads": HEADS * SHARED, "kv_num_heads": HEADS}
        names = ["flat", "key", "value", "", past[0].name, past[1].name]
        seen = ["packed_seen", *(item.name for item in present)]
        nodes = [turned, flat, helper.make_node("Attention", names, seen, **heads)]
        nodes.append(helper.make_node("Identity", ["packed_seen"], ["seen"]))
    nodes.append(helper.make_node("Attention", ["query", present[0].name, present[1].name], ["seen_again"]))
    both = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("seen", "seen_again")]
    shape = [numpy_helper.from_array(np.array([0, 0, HEADS * SHARED * SIZE]), "packed")][joined_before:]
    graph = helper.make_graph(nodes, "decoder", [query, *new, *past], [*both, *present], shape)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def coded(model: onnx.ModelProto, scales: NDArray[np.float32]) -> Any:
    """The graph with codes, opened."""
    coded_graph = ir.from_proto(model)
    store_codes(coded_graph.graph, DecoderShape(1, 8, HEADS * SHARED, HEADS, SIZE, 8, 8, 64), {0: scales})
    return onnxruntime.InferenceSession(ir.to_proto(coded_graph).SerializeToString())


def steps(session: Any, joined_before: bool, keys: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What attention sees of all rows but the last, and then of the last after them."""
    random = np.random.default_rng(1)
    values = random.normal(size=keys.shape).astype(np.float32)
    values[:, :, 3] = 0  # a row of zeros has no largest magnitude
    queries = random.normal(size=(1, HEADS * SHARED, ROWS, SIZE)).astype(np.float32)
    queries[:, :, :, [1, 6, 9, 14]] /= 50  # or attention would be of one row, whatever the others are
    cache: dict[str, Any] = {}
    for item in session.get_inputs():
        if item.name.startswith("past"):
            kind = np.int8 if item.type == "tensor(int8)" else np.float32
            cache[item.name] = np.zeros((1, HEADS, 0, item.shape[3]), kind)
    names, seen = [item.name for item in session.get_outputs()], []
    for part in (slice(0, ROWS - 1), slice(ROWS - 1, ROWS)):
        new = {"key": keys[:, :, part], "value": values[:, :, part]}
        if not joined_before:
            new = {name: rows.swapaxes(1, 2).reshape(1, -1, HEADS * SIZE) for name, rows in new.items()}
        out = dict(zip(names, session.run(names, {"query": queries[:, :, part], **new, **cache}), strict=True))
        seen += [out["seen"], out["seen_again"]]
        cache = {name: out[graph_io.present_name(name)] for name in cache}
    return seen


@pytest.mark.parametrize("joined_before", [True, False])
def test_outlier_channels_of_keys_cost_nothing_where_each_has_its_scale(joined_before: bool) -> None:
    model, keys = attention_graph(joined_before), outliers()
    plain = onnxruntime.InferenceSession(model.SerializeToString())
    wanted = steps(plain, joined_before, keys)
    scales = scales_of(magnitudes(keys, SIZE))
    seen = steps(coded(model, scales), joined_before, keys)
    errors = [float(np.abs(one - other).max()) for one, other in zip(seen, wanted, strict=True)]
    assert max(errors[:2]) < 1e-5  # what a call brings is as it was
    assert 1e-6 < max(errors[2:]) < 0.02  # what is past was rounded
    shared = np.broadcast_to(scales.max(1, keepdims=True), scales.shape).astype(np.float32)
    worse = steps(coded(model, shared), joined_before, keys)
    lost = [float(np.abs(one - other).max()) for one, other in zip(worse[2:], wanted[2:], strict=True)]
    assert max(lost) > 5 * max(errors)


@pytest.mark.parametrize("turned", [SIZE, SIZE // 2, SIZE // 4, 0])
def test_scales_hold_whatever_the_position(turned: int) -> None:
    """A pair that is turned by any angle stays within its codes; a channel that is not turned has its own scale."""
    keys = outliers()
    scales = scales_of(magnitudes(keys, turned))
    most = []
    for angle in np.linspace(0, 2 * np.pi, 17):
        first, second = keys[..., : turned // 2], keys[..., turned // 2 : turned]
        rotated = [first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)]
        codes = np.concatenate([*rotated, keys[..., turned:]], -1) / scales[:, None]
        most.append(np.abs(codes).max(axis=(0, 2)))
    assert np.max(most) <= LARGEST / HEADROOM + 1e-3
    assert np.max(most, 0)[:, turned:] == pytest.approx(LARGEST / HEADROOM)
    assert np.max(most, 0).min() > 0.9 * LARGEST / HEADROOM  # no channel is rounded more coarsely than its own keys ask
    assert scales_of(np.zeros((1, 2), np.float32)).tolist() == [[1.0] * 2]


def rotated_graph(turned: int, attributes: dict[str, int] | None = None, between: str = "Identity") -> ir.Graph:
    """Keys of which the first ``turned`` channels of each head are rotated, before a cache."""
    nodes, shape = [], lambda *sizes: ("b", *sizes)
    halves = {"rotated": (0, turned), "rest": (turned, SIZE)}
    constants = [numpy_helper.from_array(np.array([3]), "axis")]
    for name, bounds in halves.items():
        for which, bound in zip(("from", "to"), bounds, strict=True):
            constants.append(numpy_helper.from_array(np.array([bound]), f"{name}.{which}"))
        nodes.append(helper.make_node("Slice", ["key", f"{name}.from", f"{name}.to", "axis"], [f"{name}.in"]))
    if turned:
        nodes.append(helper.make_node("RotaryEmbedding", ["rotated.in", "cos", "sin"], ["turned"], **attributes or {}))
        nodes.append(helper.make_node(between, ["turned"], ["rotated"]))
    parts = ["rotated", "rest.in"] if turned else ["rest.in"]
    nodes.append(helper.make_node("Concat", parts, ["whole"], axis=3))
    nodes.append(helper.make_node("Concat", ["past_key_values.0.key", "whole"], ["present.0.key"], axis=2))
    tables = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape("s", turned // 2)) for name in ("cos", "sin")
    ]
    key, past, present = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape(HEADS, rows, SIZE))
        for name, rows in (("key", "s"), ("past_key_values.0.key", "p"), ("present.0.key", "t"))
    )
    graph = helper.make_graph(nodes, "decoder", [key, *tables, past], [present], constants)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])).graph


@pytest.mark.parametrize("turned", [SIZE, SIZE // 2, 0])
def test_the_graph_says_how_much_of_a_head_is_turned(turned: int) -> None:
    assert turned_channels(rotated_graph(turned), "past_key_values.0.key") == turned


def test_pairs_that_are_not_known_are_refused() -> None:
    words = r"(?s)pairs that are not known.*past_key_values\.0\.key.*interleaved channels"
    with pytest.raises(CheckFailed, match=words):
        turned_channels(rotated_graph(8, {"interleaved": 1}), "past_key_values.0.key")


@pytest.mark.parametrize("between", ["Neg", "Softsign"])
def test_what_is_not_known_behind_a_rotation_is_refused(between: str) -> None:
    words = rf"(?s)between a rotation of keys and their cache is not known.*past_key_values\.0\.key.*got: +{between}"
    with pytest.raises(CheckFailed, match=words):
        turned_channels(rotated_graph(8, between=between), "past_key_values.0.key")


def test_what_is_not_known_before_a_rotation_or_without_one_is_followed() -> None:
    for turned in (8, 0):
        graph = rotated_graph(turned)
        first = next(node for node in graph if node.op_type == "Slice")
        negated = ir.node("Neg", [first.inputs[0]])
        graph.insert_before(first, negated)
        for node in graph:
            if node.op_type == "Slice":
                node.replace_input_with(0, negated.outputs[0])
        assert turned_channels(graph, "past_key_values.0.key") == turned


def test_a_cache_that_something_else_reads_is_refused() -> None:
    model = attention_graph(True)
    model.graph.node.append(helper.make_node("Neg", [graph_io.present_name(graph_io.past_names(1)[0])], ["other"]))
    with pytest.raises(CheckFailed, match="a cache has other readers"):
        coded(model, np.ones((HEADS, SIZE), np.float32))


def graphs_of(bundle: Bundle, plan: str, backend: Callable[..., Any] = OrtBackend, **options: Any) -> Graphs:
    entry = bundle.entry(plan)
    return Graphs(bundle.manifest, entry.plan, backend(bundle, entry, threads=1, **options))


def prompt(bundle: Bundle, graphs: Graphs) -> Step:
    """A prompt of one random picture, run."""
    random = np.random.default_rng(0)
    seen = graphs.encode_images(random.integers(0, 256, (1, 1, *bundle.manifest.image.size, 3)).astype(np.uint8))
    return graphs.run([40, bundle.manifest.prompt.image_token_id, *range(41, 40 + TEXT)], seen)


def test_a_prompt_gives_what_it_gave_and_what_follows_sees_codes(unpadded_bundle: Bundle, stored: Bundle) -> None:
    """Decoding on codes is the plan's own decoding on what the codes stand for."""
    plain, coded_graphs = graphs_of(unpadded_bundle, PLAN), graphs_of(stored, CODES)
    before, after = prompt(unpadded_bundle, plain), prompt(stored, coded_graphs)
    np.testing.assert_allclose(after.logits, before.logits, atol=1e-4)
    assert before.kept and all(np.array_equal(before.kept[layer], after.kept[layer]) for layer in before.kept)
    wide, narrow = before.state.cache, after.state.cache
    size = stored.manifest.decoder.head_dim
    assert narrow.lengths == wide.lengths and narrow.nbytes * 8 * size == wide.nbytes * (2 * size + 4)
    values = stood_for(stored, stored.entry(CODES), narrow.floats())
    handed = plain.backend.adopt(values)  # type: ignore[attr-defined]
    wanted = plain.run([45, 46], state=dataclasses.replace(before.state, cache=handed)).logits
    seen = coded_graphs.run([45, 46], state=after.state).logits
    np.testing.assert_allclose(seen, wanted, atol=1e-4)
    assert np.abs(seen - plain.run([45, 46], state=before.state).logits).max() > 1e-3


@pytest.mark.parametrize("arithmetic", slow_but(["fp32"], ["fp32", "bf16"]))
def test_openvino_sees_the_same_codes(stored: Bundle, arithmetic: str) -> None:
    if arithmetic == "bf16" and "bf16" not in devices.find("CPU").arithmetics:
        pytest.skip("this processor has no bf16")
    here, there = graphs_of(stored, CODES), graphs_of(stored, CODES, OpenVinoBackend, arithmetic=arithmetic)
    first, other = prompt(stored, here), prompt(stored, there)
    for one, two in zip(first.state.cache.arrays(), other.state.cache.arrays(), strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        if arithmetic == "bf16":  # which keeps other visual tokens where two score alike
            one, two = one[:, :, -TEXT:], two[:, :, -TEXT:]
        off = np.abs(one.astype(np.float32) - two.astype(np.float32))
        if one.dtype == np.int8:  # bf16 moves what is coded by some of its 127 steps
            assert off.max() <= 1 if arithmetic == "fp32" else off.mean() <= 4
        else:
            assert off.max() <= 1e-4 if arithmetic == "fp32" else (off <= 0.05 * np.abs(one)).all()
    allowed = 2e-3 if arithmetic == "fp32" else 0.5
    handed = other.state.cache.like(first.state.cache.arrays())
    seen = there.run([45, 46], state=dataclasses.replace(first.state, cache=handed)).logits
    np.testing.assert_allclose(seen, here.run([45, 46], state=first.state).logits, atol=allowed)


@pytest.mark.slow(beside="calibration/quantise/test_cache_codes.py::test_openvino_sees_the_same_codes")
def test_turns_batches_and_pairs_answer_alike(stored: Bundle, data: CalibrationSet) -> None:
    """One after the other, together, and handed from one engine to another, the codes are the same."""
    case = next(case for case in data.cases if len(case.images) == 1)
    session = Session(stored, plan=CODES, threads=1)
    first = session.generate(case.images, case.prompt, max_new_tokens=4)
    together = session.generate_batch([{"image": case.images, "prompt": case.prompt}] * 2, max_new_tokens=4)
    assert [one.token_ids for one in together] == [first.token_ids] * 2
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": case.prompt}]},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "how many digits?"},
    ]
    again = [session.generate(case.images, messages=turns, after=first, max_new_tokens=4) for _ in range(2)]
    assert again[0].reused and again[0].token_ids == again[1].token_ids  # a state is never changed
    pair = Session(stored, plan=CODES, threads=1, backend="openvino+cpu", arithmetic="fp32")
    assert pair.generate(case.images, case.prompt, max_new_tokens=4).token_ids == first.token_ids


def spoilt(bundle: Bundle, folder: Path, constant: str, factor: float) -> Bundle:
    """A copy whose constant is multiplied."""
    shutil.copytree(bundle.folder, folder)
    entry, files = bundle.entry(CODES), dict(bundle.manifest.files)
    for file in filter(None, (entry.decoder, entry.decoder_debug)):
        model = onnx.load(folder / file, load_external_data=False)
        (tensor,) = [one for one in model.graph.initializer if one.name == constant]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), constant))
        (folder / file).write_bytes(model.SerializeToString())
        files[file] = bundles.record(folder / file)
    bundles.write_manifest(folder, dataclasses.replace(bundle.manifest, files=files))
    return bundles.load(folder)


def failed(unpadded_bundle: Bundle, candidate: Bundle, data: CalibrationSet) -> list[str]:
    """Gates of numbers, not of the answers that two layers give at random, that codes do not pass beside the plan."""
    sides = open_bundle(str(unpadded_bundle.folder), PLAN, 1), open_bundle(str(candidate.folder), CODES, 1)
    result = compare(*sides, data.cases[:6], observe=6, longest=data.longest, stops=data.stops)
    return [gate.name for gate in check_gates(result) if gate.level == "tensors" and not gate.passed]


@pytest.mark.slow(beside="calibration/quantise/test_cache_codes.py::test_openvino_sees_the_same_codes")
def test_parity_passes_and_sees_a_spoilt_scale(
    unpadded_bundle: Bundle, stored: Bundle, data: CalibrationSet, tmp_path: Path
) -> None:
    assert not failed(unpadded_bundle, stored, data)
    for constant, factor in (("key_scales.0", 1.05), ("query_scales.0", 1.05)):
        assert failed(unpadded_bundle, spoilt(stored, tmp_path / constant, constant, factor), data), constant


def test_what_the_manifest_says(unpadded_bundle: Bundle, stored: Bundle) -> None:
    entry = stored.manifest.plans[CODES]
    assert (entry.cache_precision, entry.variant_of, entry.precision) == ("int8", PLAN, "fp32")
    assert entry.vision == stored.manifest.plans[PLAN].vision
    written = stored.manifest.to_json()
    assert "caches" not in written["plans"][PLAN]  # versions that know no codes read it
    assert Manifest.from_json(written, "x") == stored.manifest
    written["plans"][CODES]["caches"]["precision"] = "int7"
    with pytest.raises(BundleError, match="codes that this version does not know"):
        Manifest.from_json(written, "x")


def test_a_graph_without_its_scales_is_refused(stored: Bundle) -> None:
    graph, shape = read_graph(stored, stored.manifest.plans[CODES].decoder), stored.manifest.decoder
    assert np.frombuffer(graph.floats("key_scales.0", shape.kv_heads * shape.head_dim), "<f4").all()
    for name, count in (("key_scales.99", 64), ("key_scales.0", 3)):
        with pytest.raises(BundleError, match="a graph lacks a constant of its plan"):
            graph.floats(name, count)


def test_what_is_refused(unpadded_bundle: Bundle, stored: Bundle, data: CalibrationSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two to nine times as coarsely as codes, values four"):
        calibrate_caches(unpadded_bundle, data, "fp8", plan=PLAN)
    with pytest.raises(UsageError, match="unsupported precision of caches"):
        calibrate_caches(unpadded_bundle, data, "int9", plan=PLAN)
    with pytest.raises(UsageError, match="codes already"):
        calibrate_caches(stored, data, "int8", plan=CODES)
    with pytest.raises(UsageError, match="the bundle has this plan with such caches"):
        calibrate_caches(stored, data, "int8", plan=PLAN)
    with pytest.raises(UsageError, match="no such share"):
        calibrate_caches(unpadded_bundle, data, "int8", plan=PLAN, min_agreement=2)
    for form, words in (("inplace", "refuses TensorScatter of INT8"), ("concat", "INT8 between Q and DQ alone")):
        with pytest.raises(UsageError, match=words):
            prepare_build(stored, "rtx-ada", CODES, kv=form)


def test_answers_that_change_too_much_write_nothing(
    unpadded_bundle: Bundle, data: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luvc_export.calibration.quantise.agreement.share", lambda answers: 0.5)
    with pytest.raises(CheckFailed, match="too many answers change"):
        calibrate_caches(unpadded_bundle, data, "int8", plan=PLAN, output=tmp_path / "new", threads=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kv", "int8", "--precision", "q8"], "calibrate takes --precision, for weights, or --kv"),
        ([], "calibrate takes --precision, for weights, or --kv"),
        (["--kv", "int8", "--rtn"], "these options are for weights"),
        (["--kv", "fp8"], "two to nine times as coarsely"),
    ],
)
def test_the_command_refuses(stored: Bundle, arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["calibrate", str(stored.folder), "--data", "glyph", *arguments])
    assert isinstance(result.exception, UsageError) and words in str(result.exception)


@pytest.mark.slow(beside="calibration/quantise/test_cache_codes.py::test_openvino_sees_the_same_codes")
def test_the_command_adds_a_plan_and_inspect_counts_it(unpadded_bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(unpadded_bundle.folder, tmp_path / "bundle")
    some = ["--data", "glyph", "--count", "16", "--retention", "0.5", "--json", "--threads", "1"]
    result = CliRunner().invoke(app, ["calibrate", str(folder), "--kv", "int8", "--plan", PLAN, *some])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["plan"] == CODES and record["cache_share"] == pytest.approx(66 / 128)
    counted = json.loads(CliRunner().invoke(app, ["inspect", str(folder), "--json"]).stdout)["cost"]
    assert counted[CODES]["kv_bytes"] == pytest.approx(counted[PLAN]["kv_bytes"] * 66 / 128)
