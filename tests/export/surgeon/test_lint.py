"""Lint: a graph that is fine passes, every kind of fault is named, and metadata survives surgery."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from surgery_harness import INLINED, Traced, cut, edited, small

from luvc_export.core.target import TargetSpec
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import lint
from luvc_export.export.surgeon.passes import fuse_spectrum_prune


def _topk_over(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "TopK")
    big = onnx.helper.make_tensor("big", onnx.TensorProto.INT64, [1], [5000])
    model.graph.initializer.append(big)
    node.input[1] = "big"


def _unused(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("spare", 1, [2]))


def _no_logits(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "scores"
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]


def _open_width(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "anything"


def _double_positions(model: onnx.ModelProto) -> None:
    next(v for v in model.graph.input if v.name == "position_ids").type.tensor_type.elem_type = 11


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 22


def _forbidden(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("NonZero", ["text_mask"], ["where"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("where", 7, None))


FAULTS: list[tuple[Callable[[onnx.ModelProto], None], str]] = [
    (_topk_over, "K = 5000 is over the target's 3840"),
    (_unused, "input spare is read by nothing"),
    (_no_logits, "output logits of the contract is missing"),
    (_open_width, "visual_embeds: axis 2 is 'anything', it must be fixed"),
    (_double_positions, "position_ids is float64, the contract says float32"),
    (_opset, "opset 22"),
    (_forbidden, "NonZero"),
]


def test_a_sound_graph_passes(traced: Traced) -> None:
    for model in traced.plain.values():
        assert {n.output[0] for n in cut(model, lint).graph.node} <= {n.output[0] for n in model.graph.node}


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_fault_is_named(traced: Traced, fault: Callable[[onnx.ModelProto], None], message: str) -> None:
    strict = TargetSpec("strict", "onnx")
    with pytest.raises(CheckFailed) as caught:
        cut(edited(traced.plain["decoder"], fault), lint, target=strict)
    assert message in str(caught.value)


def test_fused_nodes_need_a_kernel_or_functions(traced: Traced) -> None:
    fused = cut(traced.decoder, fuse_spectrum_prune)
    cut(fused, lint)
    with pytest.raises(CheckFailed, match=r"SpectrumPrune .* the target reads no functions"):
        cut(fused, lint, target=INLINED)


def test_a_graph_without_a_plan_is_refused() -> None:
    model = small("g (float[2] x) => (float[2] y) { y = Abs(x) }")
    del model.metadata_props[:]
    with pytest.raises(CheckFailed, match="carries no plan"):
        cut(model)


def test_metadata_survives(traced: Traced) -> None:
    before = edited(traced.decoder, lambda m: m.metadata_props.add(key="who", value="me") and None)
    after = cut(before)
    assert {"who": "me"}.items() <= {p.key: p.value for p in after.metadata_props}.items()
    kept = {n.output[0]: {p.key: p.value for p in n.metadata_props} for n in after.graph.node}
    earlier = {n.output[0]: {p.key: p.value for p in n.metadata_props} for n in before.graph.node}
    same = [name for name in kept if earlier.get(name)]
    assert same
    assert all(kept[name] == earlier[name] for name in same)
    assert any("luvc.pass" in props for props in kept.values())
