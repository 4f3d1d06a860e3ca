"""Explicit Q/DQ graphs go through surgery for TensorRT and build with TensorRT-RTX, where there is no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from slow_cases import slow_but

from luvc_export.bundle.folder import Bundle
from luvc_export.calibration import datasets
from luvc_export.calibration.quantise import ranges
from luvc_export.calibration.quantise.quantiser import Quantiser
from luvc_export.calibration.quantise.recipe import Recipe
from luvc_export.calibration.quantise.statistics import Statistics
from luvc_export.core.precision import PRECISIONS
from luvc_export.core.target import ORT_CPU
from luvc_export.engines import targets
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import run_passes

PLAN = "thirds"
DATA = datasets.load("glyph", count=14)
#: Smallest, best and largest size of each open axis, by what the contract calls the input.
TEXT, VISUAL = (1, 16, 64), (0, 1, 1)


@pytest.fixture(scope="module")
def seen(short_bundle: Bundle) -> dict[str, Statistics]:
    return ranges.collect(short_bundle, PLAN, DATA, threads=1)


@pytest.fixture(scope="module", params=slow_but(["int8"], ["int8", "fp8", "int4", "nvfp4", "nvfp4a16"]))
def graphs(
    short_bundle: Bundle,
    seen: dict[str, Statistics],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> tuple[str, dict[str, Path]]:
    """A precision and its graphs by half, weights beside them."""
    folder = tmp_path_factory.mktemp(request.param)
    quantiser = Quantiser(short_bundle, PLAN, Recipe(PRECISIONS[request.param], aware=False), seen, folder)
    entry = quantiser.write(folder, (), DATA.record)
    return request.param, {"vision": folder / entry.vision, "decoder": folder / entry.decoder}


def build(trt: Any, model: onnx.ModelProto, path: Path, tokens: int, engine: bool) -> tuple[Any, Any]:
    """The network as TensorRT-RTX reads it, and its engine where one is wanted."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parser.parse(model.SerializeToString(), str(path))
    assert not [parser.get_error(i).desc() for i in range(parser.num_errors)]
    if not engine:
        return network, None
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sizes = _sizes(tensor.name, tokens)
        profile.set_shape(
            tensor.name,
            *(
                [have if have >= 0 else want for have, want in zip(tensor.shape, size, strict=False)]
                for size in zip(*sizes, strict=True)
            ),
        )
    config.add_optimization_profile(profile)
    return network, builder.build_serialized_network(network, config)


def _sizes(name: str, tokens: int) -> list[tuple[int, int, int]]:
    one, visual = (1, 1, 1), (0, tokens, tokens)
    known = {
        "image": [one] * 5,
        "visual_embeds": [one, VISUAL, one, one],
        "input_ids": [one, TEXT],
        "visual_position_ids": [one, one, visual],
        "position_ids": [one, one, TEXT],
        "visual_order": [one, visual],
        "order": [one, TEXT],
        "text_mask": [one, (1, 16, 128)],
        "logits_indices": [one, one],
    }
    return known.get(name, [one, one, (0, 0, tokens + 64), one])


#: One engine of each precision is built, and both halves of one; the others, of the same operators, are parsed.
BUILT = {("int8", "vision"), ("int8", "decoder"), ("fp8", "decoder"), ("int4", "decoder"), ("nvfp4", "decoder"),
         ("nvfp4a16", "vision")}  # fmt: skip


@pytest.mark.parametrize("half", ["vision", "decoder"])
def test_tensorrt_rtx_takes_it(short_bundle: Bundle, graphs: tuple[str, dict[str, Path]], half: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]' to build engines")
    precision, files = graphs
    spec = targets.find("rtx-blackwell" if "fp4" in precision else "rtx-ada").with_kv("concat")
    graph = onnx.load(files[half], load_external_data=False)
    model, _ = run_passes(graph, spec, "fp16")
    wanted = (precision, half) in BUILT
    network, engine = build(trt, model, files[half], short_bundle.entry(PLAN).plan.vision_tokens, wanted)
    assert not wanted or (engine is not None and engine.nbytes > 0)
    kind, code = {
        "int8": (trt.DataType.INT8, onnx.TensorProto.INT8),
        "fp8": (trt.DataType.FP8, onnx.TensorProto.FLOAT8E4M3FN),
        "int4": (trt.DataType.INT4, onnx.TensorProto.INT4),
        "nvfp4": (trt.DataType.FP4, onnx.TensorProto.FLOAT4E2M1),
        "nvfp4a16": (trt.DataType.FP4, onnx.TensorProto.FLOAT4E2M1),
    }[precision]
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    rounding = (trt.LayerType.QUANTIZE, trt.LayerType.DYNAMIC_QUANTIZE)
    widened = [layer for layer in layers if layer.type == trt.LayerType.DEQUANTIZE and layer.get_input(0).dtype == kind]
    rounded = [layer for layer in layers if layer.type in rounding and layer.get_output(0).dtype == kind]
    weights = sum(item.data_type == code and len(item.dims) == 2 for item in graph.graph.initializer)
    activations = sum(node.op_type in ("QuantizeLinear", "TRT_FP4DynamicQuantize") for node in model.graph.node)
    assert weights > 8 and (activations >= 8) == (precision not in ("int4", "nvfp4a16")), "those of one input are one"
    assert (len(widened), len(rounded)) == (weights + activations, activations)


def test_graphs_for_onnx_runtime_hold_no_operator_of_tensorrt(graphs: tuple[str, dict[str, Path]]) -> None:
    precision, files = graphs
    if precision == "nvfp4":
        with pytest.raises(CheckFailed, match=r"TRT_FP4DynamicQuantize(.|\n)*ONNX Runtime has no such operator"):
            run_passes(onnx.load(files["decoder"], load_external_data=False), ORT_CPU)


def test_the_older_parser_takes_int8_and_is_refused_four_bits(graphs: tuple[str, dict[str, Path]]) -> None:
    precision, files = graphs
    spec = targets.find("jetson-orin-nano-jp62").spec
    model = onnx.load(files["decoder"], load_external_data=False)
    if "4" in precision:
        with pytest.raises(CheckFailed, match=r"DequantizeLinear(.|\n)*(block_size|INT4|FLOAT4E2M1)"):
            run_passes(model, spec, "fp16")
        return
    rewritten, _ = run_passes(model, spec, "fp16")
    count = {
        op: sum(node.op_type == op for node in rewritten.graph.node) for op in ("QuantizeLinear", "DequantizeLinear")
    }
    weights = sum(len(item.dims) == 2 and item.name.endswith("weight_quantized") for item in model.graph.initializer)
    assert count["DequantizeLinear"] == count["QuantizeLinear"] + weights > 16
