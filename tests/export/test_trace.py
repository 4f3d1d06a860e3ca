"""What every exported graph must be, and that the check can fail."""

from __future__ import annotations

import json

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper

from luvc_export.bundle.folder import Bundle
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.errors import CheckFailed, PlanError
from luvc_export.export import trace

GRAPHS = [
    "vision.none.onnx",
    "vision.even.onnx",
    "decoder.none.onnx",
    "decoder.thirds.onnx",
    "decoder.thirds.debug.onnx",
]


def load(bundle: Bundle, name: str) -> onnx.ModelProto:
    return onnx.load(bundle.folder / name, load_external_data=False)


@pytest.mark.parametrize("name", GRAPHS)
def test_saved_graphs_have_the_versions_and_no_forbidden_operator(demo_bundle: Bundle, name: str) -> None:
    model = load(demo_bundle, name)
    assert model.ir_version == trace.IR_VERSION
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == trace.OPSET
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    assert len(nodes) > 50
    bad = [node.op_type for node in nodes if node.op_type.startswith(trace.FORBIDDEN)]
    assert bad == []
    plan = next(entry.value for entry in model.metadata_props if entry.key == "luvc.plan")
    assert Plan.from_json(json.loads(plan)) == demo_bundle.entry(name.split(".")[1]).plan


def test_plans_that_merge_alike_share_a_vision_graph(demo_bundle: Bundle) -> None:
    files = {name: demo_bundle.entry(name).vision for name in ("none", "even", "thirds")}
    assert files == {"none": "vision.none.onnx", "even": "vision.even.onnx", "thirds": "vision.even.onnx"}
    assert not (demo_bundle.folder / "vision.thirds.onnx").exists()


@pytest.mark.parametrize("plan", ["none", "thirds"])
def test_names_and_shapes_are_the_contract(demo_bundle: Bundle, plan: str) -> None:
    entry = demo_bundle.entry(plan)
    keep = entry.plan.keep
    vision, decoder = (load(demo_bundle, file).graph for file in (entry.vision, entry.decoder))
    padding = plan == "thirds"
    assert entry.plan.encoder.padding and entry.plan.encoder.reads_padding == entry.plan.decoder_padding == padding
    assert [i.name for i in vision.input] == [graph_io.IMAGE, *[graph_io.PADDING] * padding]
    assert [o.name for o in vision.output] == [graph_io.VISUAL_EMBEDS, graph_io.VISUAL_POSITIONS, graph_io.MERGED_INTO]
    inputs = [*graph_io.DECODER_INPUTS, *[graph_io.VISUAL_PADDING] * padding]
    assert [i.name for i in decoder.input] == [*inputs, *graph_io.past_names(len(keep))]
    prunes = [graph_io.kept_name(layer) for layer, _, kept in demo_bundle.entry(plan).plan.prunes if kept]
    assert [o.name for o in decoder.output] == [
        graph_io.LOGITS,
        *map(graph_io.present_name, graph_io.past_names(len(keep))),
        *prunes,
    ]
    kinds = {i.name: i.type.tensor_type.elem_type for i in decoder.input}
    assert kinds[graph_io.POSITION_IDS] == kinds[graph_io.VISUAL_POSITION_IDS] == TensorProto.FLOAT
    assert kinds[graph_io.TEXT_MASK] == TensorProto.BOOL
    symbols = {i.name: i.type.tensor_type.shape.dim[2].dim_param for i in decoder.input if i.name.startswith("past")}
    for layer in range(len(keep)):
        assert symbols[f"past_key_values.{layer}.key"] == f"past_{keep[layer]}"
    assert all(i.type.tensor_type.shape.dim[0].dim_param == "batch" for i in decoder.input if i.name != "image"
               and "position_ids" not in i.name)  # fmt: skip


def test_weights_are_external_and_shared(demo_bundle: Bundle) -> None:
    places: dict[str, tuple[str, str]] = {}
    for name in GRAPHS:
        for tensor in load(demo_bundle, name).graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                place = {entry.key: entry.value for entry in tensor.external_data}
                assert place["location"] == "weights" and int(place["offset"]) % 4096 == 0
                assert places.setdefault(tensor.name, (place["offset"], place["length"])) == (
                    place["offset"],
                    place["length"],
                )
            else:
                assert len(tensor.SerializeToString()) < 2**20, tensor.name
    assert len(places) > 100
    for name in GRAPHS:
        assert (demo_bundle.folder / name).stat().st_size < 2 * 2**20


def sabotage(op: str, opset: int = trace.OPSET, version: int = trace.IR_VERSION) -> ir.Model:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], name="culprit")], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=version)
    return ir.from_proto(model)


@pytest.mark.parametrize("op", ["NonZero", "ScatterND", "ScatterElements", "DFT", "Compress", "Loop", "SequenceAt"])
def test_a_forbidden_operator_is_named(op: str) -> None:
    with pytest.raises(CheckFailed, match=f"culprit\n  got: {op}"):
        trace.check(sabotage(op))


def test_wrong_versions_are_named() -> None:
    for opset, version in ((18, 10), (23, 11)):
        with pytest.raises(CheckFailed, match=f"opset {opset}, ir_version {version}"):
            trace.check(sabotage("Abs", opset, version))
    trace.check(sabotage("Abs"))


class _Refuses(torch.nn.Module):
    """A part of a model that a score refuses only once its tensors are there."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise PlanError("no keys here")


def test_what_is_refused_while_it_is_traced_is_the_error() -> None:
    """Not torch's, that it could not trace the model."""
    with pytest.raises(PlanError, match="no keys here"):
        trace._trace(_Refuses(), (torch.ones(1),), ({},), ["x"], ["y"], False)
