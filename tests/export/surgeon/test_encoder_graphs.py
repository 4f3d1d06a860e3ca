"""Graphs of plans that merge in windows, merge twice after one block, prune and restore: fused, equal, buildable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import encoder_cache
import onnx
import pytest
from flat_plans import replan
from slow_cases import slow_but
from surgery_harness import PLUGINS, RTX, TRT103, Traced, broken, cut, edited, equal

from luvc_export.core.plan import EncoderPrune
from luvc_export.core.plan.merging import MergePass
from luvc_export.core.target import ORT_CPU, TargetSpec
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import fuse_orthogonal_merge


@pytest.mark.parametrize(
    ("target", "precision"),
    slow_but([ORT_CPU, PLUGINS], [(ORT_CPU, "fp32"), (RTX, "fp32"), (TRT103, "fp32"), (PLUGINS, "fp32")]),
)
def test_whole_list(inside: Traced, target: TargetSpec, precision: Any) -> None:
    """The list ends with lint for the target's dialect."""
    after = cut(inside.vision, target=target, precision=precision)
    assert not [node for node in after.graph.node if node.op_type == "MergeAxis"]
    if target in (ORT_CPU, TRT103):  # the host has no kernels for calls, and does not know TensorRT's attribute
        assert equal(inside.vision, after, inside.plan, "constants" if target is ORT_CPU else precision)


def test_windows_of_each_size_and_each_pass_are_a_node(inside: Traced) -> None:
    """Passes after one block read each other's results: each is found after the one before is replaced."""
    fused = cut(inside.vision, fuse_orthogonal_merge)
    nodes = [{a.name: a.i for a in n.attribute} for n in fused.graph.node if n.domain == "luvc"]
    sizes = sorted((n["height"], n["width"], n["rows"], n["columns"]) for n in nodes)
    boxes = [box for planned in inside.plan.encoder.merge_passes for box in planned.boxes if box.rows or box.columns]
    assert sizes == sorted((box.height, box.width, box.rows, box.columns) for box in boxes)
    assert sizes[:3] == [(2, 4, 0, 1), (4, 1, 1, 0), (4, 4, 1, 1)] and len(sizes) == 5
    assert equal(inside.vision, fused, inside.plan, "exact")


def test_a_pass_that_is_not_the_plans_is_refused(inside: Traced) -> None:
    def other(model: Any) -> None:
        plan = replan(inside.plan, merges=(*inside.plan.encoder.merges[:1], MergePass(0, 0, 2)))
        model.metadata_props[0].value = json.dumps(plan.to_json())

    with pytest.raises(CheckFailed, match="the fused merges are not the plan's"):
        cut(edited(inside.vision, other), fuse_orthogonal_merge)


def test_sabotage_of_pairing_is_caught(inside: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that read other columns' results: a pair that is none, over whose rows the columns' state is lost."""
    honest = fuse_orthogonal_merge._rows_after
    pairs = list[Any]()

    def first_rows(columns: Any) -> Any:
        pairs.append(honest(columns))
        return next((pair for pair in pairs if pair is not None), None)

    monkeypatch.setattr(fuse_orthogonal_merge, "_rows_after", first_rows)
    assert broken(inside.vision, lambda: cut(inside.vision, fuse_orthogonal_merge), inside)


def test_columns_that_something_else_reads_are_not_paired(inside: Traced) -> None:
    """What is read between columns and rows stays there: both are nodes of their own, and nothing changes."""

    def tapped(model: onnx.ModelProto) -> None:
        columns = next(node for node in model.graph.node if node.op_type == "MergeColumns")
        sizes = columns.output[1]
        model.graph.node.append(onnx.helper.make_node("ReduceSum", [sizes], ["tapped"], keepdims=0))
        model.graph.output.append(onnx.helper.make_tensor_value_info("tapped", 1, []))

    model = edited(inside.vision, tapped)
    fused = cut(model, fuse_orthogonal_merge)
    nodes = [node.op_type for node in fused.graph.node if node.domain == "luvc"]
    paired = [node.op_type for node in cut(inside.vision, fuse_orthogonal_merge).graph.node if node.domain == "luvc"]
    assert len(nodes) == len(paired) + 1 and nodes.count("OrthogonalMerge") == paired.count("OrthogonalMerge") - 1
    assert equal(model, fused, inside.plan, "exact")


def test_an_unfused_prune_is_not_rounded(inside: Traced) -> None:
    with pytest.raises(CheckFailed, match="export with --dtype fp16, which keeps them in fp32"):
        cut(inside.vision, target=RTX, precision="fp16")


@pytest.mark.parametrize("target", [RTX, TRT103], ids=["onnx", "primitive"])
def test_an_engine_is_parsed(inside: Traced, target: TargetSpec) -> None:
    """In the dialect of TensorRT-RTX itself, and in the other, which test_rtx.py builds."""
    _build(cut(inside.vision, target=target, precision="fp32"), whole=False)


@pytest.mark.slow(beside="export/surgeon/test_encoder_graphs.py::test_an_engine_is_parsed")
def test_an_engine_builds(inside: Traced) -> None:
    _build(cut(inside.vision, target=RTX, precision="fp32"))


def test_a_graph_is_parsed_where_units_leave_before_the_merger(tmp_path: Path) -> None:
    """Scored at the merger's input, after the last block: the merger runs on what stays."""
    plan = replan(encoder_cache.PLAN, merges=(), encoder_prune=EncoderPrune(1, 0.5, restore="none"), keep=(27, 0, 0))
    encoder_cache.write(tmp_path / "made", plan, blocks=2)
    network = _build(cut(onnx.load(tmp_path / "made" / "vision.onnx"), target=RTX, precision="fp32"), whole=False)
    outputs = {out.name: tuple(out.shape) for out in map(network.get_output, range(network.num_outputs))}
    assert outputs["visual_embeds"][1] == plan.vision_tokens == plan.units // 2


def _build(model: onnx.ModelProto, whole: bool = True) -> Any:
    """Parse a vision graph, and build an engine of it where ``whole``; the network it was parsed to."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'luvc-export[rtx]' to build engines")
    import test_rtx

    log = test_rtx.Log()
    builder, network, errors = test_rtx.parse(model.SerializeToString(), log)
    assert not errors
    assert not [line for line in log.lines if "unused" in line.lower()]
    if not whole:
        return network
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    shape = list(network.get_input(0).shape)
    profile.set_shape("image", [1, *shape[1:]], [1, *shape[1:]], [2, *shape[1:]])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None and engine.nbytes > 0
    assert not [line for line in log.lines if "unused" in line.lower()]
    return network
