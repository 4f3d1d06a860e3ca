"""What a plan does inside the encoder: units that leave and come back, merges in windows; graphs equal torch."""

from __future__ import annotations

import json
from typing import Any

import family_harness as harness
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from family_harness import TOLERANCE, Case, case
from flat_plans import flat_plan, replan
from slow_cases import slow_but
from torch import Tensor

from luvc_export.core.plan import EncoderPrune, Plan
from luvc_export.core.plan.merging import MergePass
from luvc_export.core.planning import check_model
from luvc_export.core.target import ORT_CPU
from luvc_export.engines import targets
from luvc_export.export import trace
from luvc_export.export.compression import oim, unit_prune
from luvc_export.export.surgeon import run_passes
from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.towers import pruned_windows
from luvc_export.export.trace import simplify

#: With windows, without and with DeepStack planes, learned positions and a class token, patches that join half-way.
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "internvl", "minicpmv4_7")
#: TensorRT 10.3, 10.15 to 11, and RTX.
TARGETS = ("jetson-orin-nx-jp62", "h100", "rtx-ada")


def _plan(tiny: Case, merges: tuple[MergePass, ...] = (), **prune: Any) -> Plan:
    planned = flat_plan(tiny.plan.grid, (0,), merges, encoder_prune=EncoderPrune(**prune) if prune else None)
    layers = tiny.family.decoder_shape(tiny.config).layers
    plan = replan(planned, keep=(planned.vision_tokens,) * layers, last_layer="full")
    check_model(plan, tiny.family.decoder_shape(tiny.config), tiny.family.encoder_shape(tiny.config))
    return plan


def _see(tiny: Case, plan: Plan, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        outputs: tuple[Tensor, Tensor, Tensor] = tiny.vision(plan)(images)
    return outputs


def _window(tiny: Case) -> int:
    return tiny.family.encoder_shape(tiny.config).window


#: By name: plans that between them hold every option.
PLANS = {
    "restored": {"block": 0, "keep": 0.6, "stabilise": 1, "score": "residual", "neighbours": 3},
    "gone": {"block": 1, "keep": 0.5, "restore": "none", "score": "change"},
}


#: Windows that units leave; places of learned positions that are restored, and patches that join in between. Buckets
#: (test_family_unit_buckets.py) trace planes, learned positions and a class token that units leave, and
#: surgeon/test_encoder_graphs.py has windows that units come back to.
TRACED = (("qwen2_5_vl", "gone"), ("internvl", "restored"), ("minicpmv4_7", "restored"))


@pytest.mark.slow(beside="export/surgeon/test_encoder_graphs.py::test_whole_list")
@pytest.mark.parametrize(("name", "option"), slow_but(["qwen2_5_vl"], TRACED))
def test_graph_equals_torch(name: str, option: str) -> None:
    """Merged first, and in windows each with a quota, where units stay away; lawful as a target's graph."""
    tiny = case(name)
    merges = (MergePass(0, 1, 1, _window(tiny)),) if option == "gone" else ()
    quota = {"window": _window(tiny)} if option == "gone" else {}
    plan = replan(_plan(tiny, merges, **PLANS[option], **quota), padding=option == "gone")
    vision, images = tiny.vision(plan), tiny.images(2)
    padding = torch.zeros(2, *plan.grid, dtype=torch.bool)
    padding[:, -1] = True
    inputs = [images, padding] if plan.encoder.reads_padding else [images]
    graph = trace.trace_vision(vision, plan, tiny.size, 1, marked=True)
    simplify(graph)
    bodies.attach(graph, plan)
    graph.metadata_props["luvc.plan"] = json.dumps(plan.to_json())
    model, _ = run_passes(ir.to_proto(graph), ORT_CPU)
    fused = sum(node.domain == "luvc" for node in model.graph.node)
    boxes = [box for passed in plan.encoder.merge_passes for box in passed.boxes if box.rows or box.columns]
    assert fused == len(boxes)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {item.name: tensor.numpy() for item, tensor in zip(session.get_inputs(), inputs, strict=True)}
    with torch.no_grad():
        expected = vision(*inputs)
    for got, want in zip(session.run(None, feeds), expected, strict=True):
        assert np.abs(got - want.numpy()).max() < TOLERANCE
    for target in TARGETS if name == FAMILIES[0] else ():
        run_passes(ir.to_proto(graph), targets.find(target).spec)  # which ends with lint


@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_all_units_is_the_uncompressed_encoder(name: str) -> None:
    tiny, images = case(name), case(name).images(2)
    plain = _see(tiny, tiny.plan, images)
    every = _see(tiny, _plan(tiny, block=0, keep=0.999, stabilise=1), images)
    for got, want in zip(every, plain, strict=True):
        assert harness.difference(got.float(), want.float()) < TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_units_that_stay_away_are_told_and_the_rest_is_in_order(name: str) -> None:
    tiny, images = case(name), case(name).images(2)
    plan = _plan(tiny, block=1, keep=0.5, restore="none")
    embeds, positions, into = _see(tiny, plan, images)
    columns = plan.grid[1]
    for image in range(2):
        units = torch.nonzero(into[image] >= 0)[:, 0]
        assert into[image][units].tolist() == list(range(plan.vision_tokens))
        assert torch.equal(positions[image], torch.stack([units // columns, units % columns], -1).float())
    whole = _see(tiny, _plan(tiny, block=1, keep=0.5), images)[0]
    stayed = [whole[image][into[image] >= 0] for image in range(2)]
    assert harness.difference(embeds, torch.stack(stayed)) < TOLERANCE


def test_every_window_keeps_its_share() -> None:
    tiny = case("qwen2_5_vl")
    rows, columns = tiny.plan.grid
    plan = _plan(tiny, block=0, keep=0.5, window=4, restore="none")
    into = _see(tiny, plan, tiny.images(1))[2].reshape(rows, columns)
    for left in range(0, columns, 4):
        window = into[:4, left : left + 4]
        assert int((window >= 0).sum()) == window.numel() // 2


def test_a_window_with_gaps_sees_kept_units_alone() -> None:
    """Attention over the whole window with a bias is what attention over its kept units is."""
    tiny = case("qwen2_5_vl")
    vision = tiny.vision(_plan(tiny, block=0, keep=0.5, restore="none"))
    hidden = torch.randn(1, 24 * 4, 96)
    stage = vision.arrange(oim.start(torch.randn(1, *tiny.plan.grid, 128)))
    index = torch.tensor([[0, 1, 5, 16, 17, 18, 20]])
    kept = unit_prune.prune(vision.per_unit(stage.x), index, EncoderPrune(0, 0.3))
    state = pruned_windows.leave(EncoderPrune(0, 0.3), stage, kept, 4)
    assert state.place is not None
    out = vision.per_unit(vision._attend_all(hidden, state.windows))[0]
    first = [place * 4 + patch for place in (0, 1, 5) for patch in range(4)]
    window = stage.windows[0]
    alone = window._replace(begin=0, end=12, length=12, cos=window.cos[:1, first], sin=window.sin[:1, first], bias=None)
    expected = vision.per_unit(vision._attend_all(hidden[:, first], [alone]))[0]
    assert harness.difference(out[[0, 1, 5]], expected) < TOLERANCE


@pytest.mark.parametrize("sabotage", ["neighbours", "order"])
def test_sabotage_is_seen(sabotage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that forgets neighbours, or kept units in the wrong places, is not the graph's arithmetic."""
    tiny, images = case("qwen2_5_vl"), case("qwen2_5_vl").images(1)
    plan = _plan(tiny, **PLANS["restored"])
    right = _see(tiny, plan, images)[0]
    if sabotage == "neighbours":
        monkeypatch.setattr(unit_prune, "restored", lambda kept, values: kept.before)
    else:
        rows = unit_prune.rows
        monkeypatch.setattr(unit_prune, "rows", lambda values, index: rows(values, index.flip(1)))
    assert harness.difference(_see(tiny, plan, images)[0], right) > 10 * TOLERANCE
