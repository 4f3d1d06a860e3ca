"""Plans hold the weights once: a random decoder of more than 150 MB, built with one profile and with two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from flat_plans import flat_plan

from luvc_export.core.shapes import DecoderShape
from luvc_export.core.target import Profiles
from luvc_export.engines import builder, targets
from luvc_export.engines.memory import KvCacheSpec, predict
from luvc_export.engines.options import BuildOptions
from luvc_export.engines.profiles import Capacity, profiles
from luvc_export.export import families, trace
from luvc_export.export.surgeon import run_passes
from luvc_export.export.surgeon.graph import PLAN_KEY
from luvc_export.export.surgeon.peak_memory import peak_bytes, weight_bytes

RTX = targets.find("rtx-ada")
PLAN = flat_plan(grid=(4, 6), keep=(12,), last_layer="full")
CAPACITY = Capacity(64)
MOST = 1.15


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> builder.BuildInput:
    """One wide layer (tracing takes longest, by the layer), random fp16 weights beside the graph, for ``RTX``."""
    torch.manual_seed(0)
    family = families.find("qwen2_5_vl", "test")
    config = family.tiny_config()
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 1536, 16384, len(PLAN.keep)
    text.num_attention_heads, text.num_key_value_heads = 12, 2
    text.rope_parameters["mrope_section"] = [16, 24, 24]
    text.layer_types = text.layer_types[: len(PLAN.keep)]
    config.vision_config.out_hidden_size, config.vision_config.depth = 1536, 1
    config.vision_config.fullatt_block_indexes = [0]
    model = family.build(config).to(torch.float16).eval()
    traced = trace.trace_decoder(family.decoder(model, PLAN), family.decoder_shape(config), torch.float16)
    traced.metadata_props[PLAN_KEY] = json.dumps(PLAN.to_json())
    folder = tmp_path_factory.mktemp("large")
    ir.save(traced, folder / "traced.onnx", external_data="weights")
    decoder, _ = run_passes(
        onnx.load(folder / "traced.onnx", load_external_data=False), RTX.spec, "fp16", text_capacity=CAPACITY.text
    )
    return builder.BuildInput("decoder.onnx", decoder.SerializeToString(), folder, PLAN, weight_bytes(decoder, "fp16"))


@pytest.fixture(scope="module")
def wide(large: builder.BuildInput, tmp_path_factory: pytest.TempPathFactory) -> tuple[builder.Built, float]:
    return build(large, tmp_path_factory.mktemp("wide") / "wide.engine", RTX.spec.profiles)


def build(graph: builder.BuildInput, output: Path, kind: Profiles) -> tuple[builder.Built, float]:
    """What was built, and how many times its weights the plan is."""
    built = builder.build(graph, output, RTX, CAPACITY, BuildOptions(), kind=kind)
    ratio = output.stat().st_size / graph.weight_bytes
    output.unlink()
    return built, ratio


@pytest.mark.slow(beside="engines/test_build_batch.py::test_plans_of_1_and_16_rows_hold_the_weights_once")
def test_one_wide_profile_holds_the_weights_once(large: builder.BuildInput, wide: tuple[builder.Built, float]) -> None:
    assert large.weight_bytes >= 150e6
    built, ratio = wide
    assert len(built.profiles) == 1
    assert 1 <= ratio <= MOST


@pytest.mark.slow(beside="engines/test_build_batch.py::test_plans_of_1_and_16_rows_hold_the_weights_once")
def test_two_profiles_would_fail_that(large: builder.BuildInput, tmp_path: Path) -> None:
    built, ratio = build(large, tmp_path / "pair.engine", "pair")
    assert [profile.name for profile in built.profiles] == ["prefill", "decode"]
    assert ratio > MOST


@pytest.mark.slow(beside="engines/test_build_batch.py::test_plans_of_1_and_16_rows_hold_the_weights_once")
def test_activations_are_predicted(large: builder.BuildInput, wide: tuple[builder.Built, float]) -> None:
    built, _ = wide
    model: Any = onnx.load_from_string(large.data)
    (profile,) = profiles({item.name: item.shape for item in built.inputs}, PLAN, CAPACITY, "wide")
    shape = DecoderShape(len(PLAN.keep), 1536, 12, 2, 128, 16384, 256, 2048)
    cache = KvCacheSpec(PLAN, shape, CAPACITY, "fp16", "inplace")
    footprint = predict((0, large.weight_bytes), cache, (0, peak_bytes(model, profile.maximum)), 1)
    assert built.activation_bytes is not None
    assert built.activation_bytes <= footprint.activations <= 3 * built.activation_bytes
