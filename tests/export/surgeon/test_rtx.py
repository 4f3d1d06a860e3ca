"""TensorRT-RTX takes both dialects in fp32 and fp16, reads every input, and builds engines where there is no GPU."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from surgery_harness import RTX, TRT103, Traced, cut

from luvc_export.core.plan import Plan
from luvc_export.core.target import TargetSpec

trt = pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]' to build engines")

SIZES: dict[str, tuple[list[int], list[int], list[int]]] = {
    "image": ([1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [2, 0, 0, 0, 0]),
    "visual_embeds": ([1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]),
    "input_ids": ([1, 1], [1, 16], [1, 32]),
    "position_ids": ([0, 1, 1], [0, 1, 16], [0, 1, 32]),
    "order": ([1, 1], [1, 16], [1, 32]),
    "text_mask": ([1, 1], [1, 16], [1, 64]),
    "logits_indices": ([1, 1], [1, 1], [1, 32]),
}


class Log(trt.ILogger):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.WARNING:
            self.lines.append(message)


def parse(model: bytes, log: Log, path: str = "") -> tuple[Any, Any, list[str]]:
    """Builder, network, and what the parser refuses; external weights lie beside ``path``."""
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parser.parse(model, path)
    return builder, network, [parser.get_error(i).desc() for i in range(parser.num_errors)]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("target", [RTX, TRT103], ids=["onnx", "primitive"])
@pytest.mark.parametrize("half", ["vision", "decoder"])
def test_parses_and_reads_every_input(traced: Traced, half: str, target: TargetSpec, precision: Any) -> None:
    log = Log()
    _, network, errors = parse(cut(getattr(traced, half), target=target, precision=precision).SerializeToString(), log)
    assert not errors
    assert network.num_outputs == len(getattr(traced, half).graph.output)
    assert not [line for line in log.lines if "unused" in line.lower()]


def build(model: onnx.ModelProto, plan: Plan) -> None:
    """Build an engine of a graph of ``plan``.

    Raises:
        AssertionError: There is none, or an input is unused.
    """
    log = Log()
    builder, network, errors = parse(model.SerializeToString(), log)
    assert not errors
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    span = plan.span_tokens
    own = {
        "visual_position_ids": ([0, 1, 0], [0, 1, span], [0, 1, span]),
        "visual_order": ([1, 0], [1, span], [1, span]),
    }
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        keep = plan.keep[int(tensor.name.split(".")[1])] if "past_key" in tensor.name else 0
        cache = ([1, 0, 0, 0], [1, 0, 0, 0], [1, 0, keep + 32, 0])
        sizes = own.get(tensor.name) or SIZES.get(tensor.name, cache)
        fixed = [[have if have >= 0 else want for have, want in zip(tensor.shape, size, strict=True)] for size in sizes]
        profile.set_shape(tensor.name, *fixed)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None and engine.nbytes > 0
    assert not [line for line in log.lines if "unused" in line.lower()]


@pytest.mark.slow(beside="export/surgeon/test_rtx.py::test_parses_and_reads_every_input")
@pytest.mark.parametrize("target", [RTX, TRT103], ids=["onnx", "primitive"])
@pytest.mark.parametrize("half", ["vision", "decoder"])
def test_builds(traced: Traced, half: str, target: TargetSpec) -> None:
    build(cut(getattr(traced, half), target=target, precision="fp16"), traced.plan)


@pytest.mark.slow(beside="export/surgeon/test_encoder_graphs.py::test_an_engine_is_parsed")
def test_builds_a_frozen_layer_rounds_a_learned_score_and_keynorm(greedy: Traced) -> None:
    build(cut(greedy.decoder, target=RTX), greedy.plan)
