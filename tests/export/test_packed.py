"""Quantised weights in the graph of a decoder, against a torch model of the weights they stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import quantised_checkpoint as forms
import torch

from luvc_export import export_bundle, make_plan
from luvc_export.bundle import codes as told_codes
from luvc_export.calibration.runners.compressed import TorchCalls, load_model
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.core.target import ORT_CPU
from luvc_export.engines import builder, codes, targets
from luvc_export.engines.builder import BuildInput
from luvc_export.engines.options import BuildOptions
from luvc_export.engines.profiles import Capacity
from luvc_export.errors import CheckFailed, CheckpointError, UsageError
from luvc_export.export import packed, trace, weights
from luvc_export.export.checkpoint import open_checkpoint
from luvc_export.export.llm.lora_slots import SlotRequest, SlottedLayers
from luvc_export.export.surgeon import run_passes
from luvc_export.export.trace import simplify
from luvc_export.pipeline.engines import check_strict

#: Of the largest logit, fp32, sums in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Plan]:
    """The decoder of the cut demo checkpoint without weights, which are inputs of it."""
    return trace_of(tmp_path_factory.mktemp("traced") / "model")


def trace_of(folder: Path, request: SlotRequest | None = None) -> tuple[bytes, Plan]:
    """A checkpoint of codes, written to ``folder``, and its decoder; with slots for adapters where asked for."""
    forms.write(folder, *forms.FORMS["pack4"])
    checkpoint = open_checkpoint(str(folder))
    skeleton = weights.skeleton(checkpoint, "fp32")
    plan = make_plan(checkpoint, "none", image_size=(112, 112))
    decoder = checkpoint.family.decoder(skeleton.model, plan)
    layers = checkpoint.family.language_model(skeleton.model).layers
    slots = SlottedLayers(layers, skeleton.names, request) if request else None
    shape = checkpoint.family.decoder_shape(checkpoint.config)
    model = trace.trace_decoder(decoder, shape, torch.float32, slots=slots)
    weights.detach(model, trace.FlatDecoder(decoder), skeleton.names)
    simplify(model)
    return ir.to_proto(model).SerializeToString(), plan


def feeds(plan: Plan) -> dict[str, Any]:
    """One image, then eleven tokens."""
    random, span, text = np.random.default_rng(5), plan.span_tokens, 11
    places = np.arange(span + text, dtype=np.float32)
    inputs = {
        graph_io.VISUAL_EMBEDS: random.standard_normal((1, 1, span, 192), np.float32),
        graph_io.INPUT_IDS: random.integers(10, 300, (1, text)),
        graph_io.VISUAL_POSITION_IDS: np.broadcast_to(places[:span], (3, 1, span)).copy(),
        graph_io.POSITION_IDS: np.broadcast_to(places[span:], (3, 1, text)).copy(),
        graph_io.VISUAL_ORDER: np.arange(span)[None],
        graph_io.ORDER: np.arange(span, span + text)[None],
        graph_io.TEXT_MASK: np.ones((1, text), bool),
        graph_io.LOGITS_INDICES: np.arange(text)[None],
        graph_io.VISUAL_PADDING: np.zeros((1, 1, span), bool),
    }
    return {name: inputs[name] for name in graph_io.decoder_inputs(plan)}


def written(
    traced: tuple[bytes, Plan], model: Path, folder: Path, dtype: str = "fp32", level: int = packed.EXACT
) -> onnx.ModelProto:
    """The graph with the weights of ``model`` in it, those in ``folder``."""
    checkpoint = open_checkpoint(str(model))
    skeleton = weights.skeleton(checkpoint, dtype)
    codes = packed.place(folder, weights.quantised(skeleton.model, checkpoint), dtype, lambda done: None)
    tensors = weights.stored(skeleton.model, checkpoint)
    places = weights.copy_plan(tensors)
    weights.write_copy(folder, tensors, places, lambda count: None)
    graph = ir.from_proto(onnx.load_model_from_string(traced[0]))
    known = set(dict(skeleton.model.named_parameters()))
    inputs = [value for value in graph.graph.inputs if value.name in known]
    weights.attach(graph, packed.insert(graph, inputs, codes, level), places)
    return ir.to_proto(graph)


def logits(model: onnx.ModelProto, folder: Path, plan: Plan, factors: Mapping[str, Any] | None = None) -> Any:
    onnx.save(model, folder / "decoder.onnx")
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # its products of INT4 round activations
    session = ort.InferenceSession(str(folder / "decoder.onnx"), options, providers=["CPUExecutionProvider"])
    none = np.zeros((1, 2, 0, 32), np.float32)
    names = {item.name for item in session.get_inputs()}
    inputs = {name: value for name, value in feeds(plan).items() if name in names}
    inputs |= dict.fromkeys(graph_io.past_names(plan.layers), none) | dict(factors or {})
    return session.run([graph_io.LOGITS], inputs)[0]


def reference(model: Path, plan: Plan, factors: Mapping[str, Any] | None = None) -> Any:
    """Of the widened model in torch; ``factors`` are merged into its weights."""
    checkpoint = open_checkpoint(str(model))
    widened = load_model(checkpoint)
    layers = dict(checkpoint.family.language_model(widened).layers.named_modules())
    for name, a in (factors or {}).items():
        if name.endswith(".a"):
            (product,) = (layers[path] for path in layers if f"lora.{_slot(path)}.a" == name)
            b = (factors or {})[f"{name[:-1]}b"]
            product.weight.data += torch.from_numpy(a @ b).T
    calls = TorchCalls(checkpoint, widened, plan)
    with torch.no_grad():
        return calls.decode_tensors(feeds(plan), calls.empty(1))[0].numpy()


def _slot(path: str) -> str:
    """``N.NAME`` of a product's path in the layers."""
    return f"{path.partition('.')[0]}.{path.rpartition('.')[2]}"


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("name", [name for name in forms.FORMS if name not in ("gptq_v2", "int8", "float_tensor")])
def test_logits_are_those_of_the_widened_model(name: str, traced: tuple[bytes, Plan], tmp_path: Path) -> None:
    forms.write(tmp_path / "model", *forms.FORMS[name])
    graph = written(traced, tmp_path / "model", tmp_path)
    ours, theirs = logits(graph, tmp_path, traced[1]), reference(tmp_path / "model", traced[1])
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert np.array_equal(ours.argmax(-1), theirs.argmax(-1))
    count = operators(graph).count("MatMulNBits")
    assert count == (0 if "fp8" in name or "float" in name else 7 * forms.LAYERS)
    if "act" in name:  # q, k and v share an order, gate and up another; o and down have their own
        gathers = [node for node in graph.graph.node if node.op_type == "Gather" and "gathered" in node.name]
        assert len(gathers) == 4 * forms.LAYERS


@pytest.fixture(scope="module")
def slotted(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Plan]:
    """As ``traced``, with slots beside every product of the layers."""
    return trace_of(tmp_path_factory.mktemp("slotted") / "model", SlotRequest(4))


@pytest.mark.parametrize("name", ["awq", "gptq_act"])
def test_an_adapter_beside_codes_is_what_it_is_merged_into_what_they_stand_for(
    name: str, slotted: tuple[bytes, Plan], tmp_path: Path
) -> None:
    """Also where the channels that enter the codes are gathered: those that enter the adapter are not."""
    forms.write(tmp_path / "model", *forms.FORMS[name])
    graph = written(slotted, tmp_path / "model", tmp_path)
    assert operators(graph).count("MatMulNBits") == 7 * forms.LAYERS
    sizes = {item.name: [one.dim_value for one in item.type.tensor_type.shape.dim] for item in graph.graph.input}
    random, factors = np.random.default_rng(0), {graph_io.LORA_ROWS: np.ones((1, 4), np.float32)}
    empty = {graph_io.LORA_ROWS: np.zeros((1, 0), np.float32)}
    for slot, (entering, leaving) in {one: sizes[one] for one in sizes if one.endswith((".a", ".b"))}.items():
        shape = (entering or 4, leaving or 4)
        factors[slot] = (0.3 * random.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)
        empty[slot] = np.zeros((entering, leaving), np.float32)
    assert len(factors) == 1 + 14 * forms.LAYERS
    plan = slotted[1]
    bare, theirs = reference(tmp_path / "model", plan), reference(tmp_path / "model", plan, factors)
    for inputs, expected in ((factors, theirs), (empty, bare)):
        ours = logits(graph, tmp_path, plan, inputs)
        assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert np.abs(theirs - bare).max() > 0.05 * np.abs(bare).max(), "the adapter changes answers"


def test_codes_stay_codes(traced: tuple[bytes, Plan], tmp_path: Path) -> None:
    """No more is written than the checkpoint has, and nothing of it in floating point but scales."""
    forms.write(tmp_path / "model", *forms.FORMS["pack4_zeros"])
    graph = written(traced, tmp_path / "model", tmp_path)
    ours = [tensor for tensor in graph.graph.initializer if tensor.name.endswith((".codes", ".zeros"))]
    assert len(ours) == 14 * forms.LAYERS and {tensor.data_type for tensor in ours} == {onnx.TensorProto.UINT8}
    linears = open_checkpoint(str(tmp_path / "model")).stored
    assert linears is not None
    numbers = sum(one.shape[0] * one.shape[1] for one in linears.linears)
    held = sum(int(np.prod(tensor.dims)) for tensor in ours if tensor.name.endswith(".codes"))
    assert held == numbers // 2


@pytest.mark.parametrize("what", ["codes", "zeros", "scales", "order"])
def test_what_is_written_wrongly_moves_the_logits(what: str, traced: tuple[bytes, Plan], tmp_path: Path) -> None:
    """A swapped nibble, a zero off by one, a turned scale, channels out of order: each is seen."""
    forms.write(tmp_path / "model", *forms.FORMS["gptq_act" if what == "order" else "awq"])
    graph = written(traced, tmp_path / "model", tmp_path)
    theirs = reference(tmp_path / "model", traced[1])
    tensor = next(
        one
        for one in graph.graph.initializer
        if one.name.endswith(f"layers.0.mlp.gate_proj.weight.{what}")
        or (what == "order" and one.name.endswith("layers.0.self_attn.o_proj.weight.order"))
    )
    if what == "order":
        swapped = onnx.numpy_helper.to_array(tensor)[::-1]
        tensor.CopyFrom(onnx.numpy_helper.from_array(swapped.copy(), tensor.name))
    else:
        place = {item.key: item.value for item in tensor.external_data}
        held = np.memmap(tmp_path / place["location"], np.uint8, "r+", int(place["offset"]), (int(place["length"]),))
        if what == "codes":
            held[:64] = held[:64] >> 4 | held[:64] << 4
        elif what == "zeros":
            held[:64] ^= 1
        else:
            scales = held.view(np.float32).reshape(tuple(tensor.dims))
            scales[:] = scales.T.copy().reshape(scales.shape)
        held.flush()
    ours = logits(graph, tmp_path, traced[1])
    assert np.abs(ours - theirs).max() > 100 * TOLERANCE * np.abs(theirs).max()


def test_a_weight_that_is_no_products_is_refused(traced: tuple[bytes, Plan], tmp_path: Path) -> None:
    graph = ir.from_proto(
        onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 23]>
        agraph (int64[n] ids, float[8, 32] w) => (float[n, 32] y) { y = Gather(w, ids) }""")
    )
    codes = ir.ExternalTensor("x", 0, 128, ir.DataType.UINT8, shape=ir.Shape((8, 1, 16)), name="w.codes")
    scales = ir.ExternalTensor("x", 128, 32, ir.DataType.FLOAT, shape=ir.Shape((8, 1)), name="w.scales")
    placed = {"w": packed.Placed((8, 32), 4, 32, codes, scales, None, None, 160)}
    with pytest.raises(CheckpointError, match=r"something else than a product[\s\S]*w: Gather"):
        packed.insert(graph, [graph.graph.inputs[1]], placed)


def test_blocks_divide_groups() -> None:
    assert [packed.block_of("w", group) for group in (16, 32, 128, 256, 96, 192, 512, 48)] == [
        16, 32, 128, 256, 32, 64, 128, 16,
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match=r"groups of 24 channels[\s\S]*multiples of 16"):
        packed.block_of("w", 24)


def test_scales_that_the_arithmetic_would_round_are_refused(tmp_path: Path) -> None:
    forms.write(tmp_path / "model", *forms.FORMS["awq"])
    checkpoint = open_checkpoint(str(tmp_path / "model"))
    skeleton = weights.skeleton(checkpoint, "bf16")
    linears = weights.quantised(skeleton.model, checkpoint)
    with pytest.raises(CheckpointError, match=r"float16 scales in bf16[\s\S]*--dtype fp32"):
        packed.place(tmp_path, linears, "bf16", lambda done: None)


#: What TensorRT-RTX reads, without what ONNX Runtime does not: INT4 of DequantizeLinear, no MatMulNBits.
UNPACKED = replace(ORT_CPU, name="unpacked", packed_products=False)


def rewritten(graph: onnx.ModelProto, plan: Plan, folder: Path, precision: Any = "fp32") -> onnx.ModelProto:
    """The graph as a target without MatMulNBits gets it, its weights written."""
    graph.metadata_props.add(key="luvc.plan", value=json.dumps(plan.to_json()))
    graph_out, _ = run_passes(graph, UNPACKED, precision)
    noted = {item.key: item.value for item in graph_out.metadata_props}[told_codes.KEY]
    items = [told_codes.Rewrite.from_json(item) for item in json.loads(noted)]
    codes.write(folder, folder, items)
    return graph_out


@pytest.mark.parametrize("name", ["pack4", "awq", "gptq_act", "fp8_block", "float_channel", "float_tensor"])
def test_targets_without_products_of_codes_get_the_same_numbers(
    name: str, traced: tuple[bytes, Plan], tmp_path: Path
) -> None:
    """TensorRT's form, run by ONNX Runtime: signed codes, zeros as a shift, FP8 widened."""
    forms.write(tmp_path / "model", *forms.FORMS[name])
    decoder = rewritten(written(traced, tmp_path / "model", tmp_path), traced[1], tmp_path)
    ours, theirs = logits(decoder, tmp_path, traced[1]), reference(tmp_path / "model", traced[1])
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    kinds = operators(decoder)
    real = "fp8" in name or "float" in name
    assert kinds.count("DequantizeLinear") == (0 if real else 7 * forms.LAYERS) and "MatMulNBits" not in kinds
    sums = [node for node in decoder.graph.node if node.op_type == "ReduceSum" and "rewrite_codes" in node.name]
    assert len(sums) == (4 * forms.LAYERS if name == "awq" else 0)


def test_a_shift_of_the_wrong_sign_is_seen(
    traced: tuple[bytes, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms.write(tmp_path / "model", *forms.FORMS["awq"])
    graph = written(traced, tmp_path / "model", tmp_path)
    right = codes.rewritten

    def wrong(folder: Path, item: Any) -> dict[str, Any]:
        parts = right(folder, item)
        return parts | {"shift": -parts["shift"]}

    monkeypatch.setattr(codes, "rewritten", wrong)
    ours = logits(rewritten(graph, traced[1], tmp_path), tmp_path, traced[1])
    theirs = reference(tmp_path / "model", traced[1])
    assert np.abs(ours - theirs).max() > 100 * TOLERANCE * np.abs(theirs).max()


def test_codes_that_tensorrt_has_no_product_for_are_refused(traced: tuple[bytes, Plan], tmp_path: Path) -> None:
    forms.write(tmp_path / "model", *forms.FORMS["pack8_zeros"])
    with pytest.raises(CheckFailed, match=r"8 bits in blocks of 64[\s\S]*calibrate --precision int8"):
        rewritten(written(traced, tmp_path / "model", tmp_path), traced[1], tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pack4", None),
        ("awq", "7 weights with zeros, whose shift"),
        ("fp8_block", r"7 FP8 weights, .* in fp32"),
    ],
)
def test_strict_builds_refuse_other_numbers(
    name: str, words: str | None, traced: tuple[bytes, Plan], tmp_path: Path
) -> None:
    forms.write(tmp_path / "model", *forms.FORMS[name])
    decoder = rewritten(written(traced, tmp_path / "model", tmp_path), traced[1], tmp_path)
    noted = {item.key: item.value for item in decoder.metadata_props}[told_codes.KEY]
    graphs: Any = [SimpleNamespace(rewrites=tuple(told_codes.Rewrite.from_json(item) for item in json.loads(noted)))]
    target = targets.find("rtx-ada")
    if words is None:
        check_strict(graphs, target)
    else:
        with pytest.raises(UsageError, match=words):
            check_strict(graphs, target)


@pytest.mark.parametrize(("dtype", "words"), [("fp32", r"that become \d\.\d\d\s"), ("fp16", "rounded to 16 bits")])
def test_strict_exports_refuse_fp8(dtype: str, words: str, traced: tuple[bytes, Plan], tmp_path: Path) -> None:
    forms.write(tmp_path / "model", *forms.FORMS["fp8_block"])
    with pytest.raises(UsageError, match=words):
        export_bundle(
            str(tmp_path / "model"), tmp_path / "bundle", traced[1], image_size=(112, 112), dtype=dtype, strict=True
        )
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["awq", "fp8_block"])
def test_tensorrt_rtx_builds_the_decoder(name: str, traced: tuple[bytes, Plan], tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]' to build engines")
    forms.write(tmp_path / "model", *forms.FORMS[name])
    graph = written(traced, tmp_path / "model", tmp_path)
    graph.metadata_props.add(key="luvc.plan", value=json.dumps(traced[1].to_json()))
    target = targets.find("rtx-ada")
    decoder, _ = run_passes(graph, target.with_kv("concat"), "fp16")
    noted = {item.key: item.value for item in decoder.metadata_props}[told_codes.KEY]
    items = tuple(told_codes.Rewrite.from_json(item) for item in json.loads(noted))
    paths = [tmp_path / "weights", tmp_path / packed.FILE]
    files = tuple(SimpleNamespace(path=path, check=lambda: None) for path in paths)
    build_input = BuildInput("decoder.onnx", decoder.SerializeToString(), tmp_path, traced[1], 0, files, items)  # type: ignore[arg-type]
    builder.build(build_input, tmp_path / "decoder.engine", target, Capacity(64, 1, 1, 1), BuildOptions())
    assert (tmp_path / "decoder.engine").stat().st_size > 100_000
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("weights.codes.")], "taken away again"
    assert trt is not None


def test_rounded_activations_are_asked_for(traced: tuple[bytes, Plan], tmp_path: Path) -> None:
    forms.write(tmp_path / "model", *forms.FORMS["awq"])
    graph = written(traced, tmp_path / "model", tmp_path, level=packed.ROUNDED)
    ours, theirs = logits(graph, tmp_path, traced[1]), reference(tmp_path / "model", traced[1])
    apart = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert 10 * TOLERANCE < apart < 0.05
