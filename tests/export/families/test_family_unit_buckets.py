"""Units as an input: graphs equal torch, the others are never seen, and all of them are the plain encoder."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import family_harness as harness
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from family_harness import SABOTAGE, TOLERANCE, Case
from family_questions import small
from flat_plans import replan
from slow_cases import slow_but
from torch import Tensor

from luvc_export.core.plan import Plan
from luvc_export.core.plan.plan_set import with_buckets
from luvc_export.core.target import ORT_CPU
from luvc_export.engines import targets
from luvc_export.errors import CheckFailed
from luvc_export.export import trace
from luvc_export.export.surgeon import run_passes
from luvc_export.export.towers import pruned_windows
from luvc_export.export.trace import simplify

#: With windows, without and with DeepStack planes, learned positions and a class token.
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "internvl")
#: Whose graphs are traced here; test_family_bucket_bundle.py exports the first.
TRACED = FAMILIES[1:]


def _bucket(tiny: Case) -> Plan:
    return with_buckets({"none": tiny.plan}, [50])["none@50"]


def _given(plan: Plan) -> Tensor:
    """Other units for each of two images, ascending int32 [2, K]."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randperm(plan.units, generator=generator)[: plan.encoder.bucket].sort().values for _ in range(2)]
    return torch.stack(rows).int()


@cache
def _traced(name: str) -> onnx.ModelProto:
    """The vision graph as the exporter leaves it."""
    tiny = small(name)
    plan = _bucket(tiny)
    graph = trace.trace_vision(tiny.vision(plan), plan, tiny.size, 1)
    simplify(graph)
    graph.metadata_props["luvc.plan"] = json.dumps(plan.to_json())
    return ir.to_proto(graph)


def _see(tiny: Case, plan: Plan, images: Tensor, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        outputs: tuple[Tensor, Tensor, Tensor] = tiny.vision(plan)(images, units)
    return outputs


def _other_pixels(tiny: Case, plan: Plan, images: Tensor, units: Tensor) -> Tensor:
    """``images`` with noise in ``units`` of both."""
    side, changed = tiny.family.unit_pixels(tiny.config), images.clone()
    for unit in units.tolist():
        row, column = divmod(unit, plan.grid[1])
        changed[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = (
            255 - changed[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
        )
    return changed


@pytest.mark.parametrize("name", slow_but(TRACED[:1], TRACED))
def test_graph_equals_torch(name: str) -> None:
    tiny = small(name)
    plan = _bucket(tiny)
    vision, inputs = tiny.vision(plan), [tiny.images(2), _given(plan)]
    model, _ = run_passes(_traced(name), ORT_CPU)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [(item.name, item.type) for item in session.get_inputs()][1] == ("units", "tensor(int32)")
    feeds = {item.name: tensor.numpy() for item, tensor in zip(session.get_inputs(), inputs, strict=True)}
    with torch.no_grad():
        expected = vision(*inputs)
    for got, want in zip(session.run(None, feeds), expected, strict=True):
        assert np.abs(got - want.numpy()).max() < TOLERANCE


@pytest.mark.parametrize("target", ["jetson-agx-orin-jp62", "h100", "rtx-ada"])
def test_graphs_pass_lint_for_every_generation(target: str) -> None:
    """TensorRT 10.3, the newest and RTX; a size of the bucket left open, or another, is seen."""
    spec = targets.find(target).spec
    for name in TRACED:
        model, _ = run_passes(_traced(name), spec, "fp16")
        assert {item.name for item in model.graph.input} == {"image", "units"}
    wrong = onnx.ModelProto()
    wrong.CopyFrom(_traced(TRACED[0]))
    plan = replan(_bucket(small(TRACED[0])), bucket=7, keep=(7,) * small(TRACED[0]).plan.layers)
    wrong.metadata_props[0].value = json.dumps(plan.to_json())
    with pytest.raises(CheckFailed, match=r"units: axis 1 is 12, the plan says 7"):
        run_passes(wrong, spec, "fp16")


@pytest.mark.parametrize("name", FAMILIES)
def test_kept_units_are_told_and_others_never_seen(name: str) -> None:
    tiny, images = small(name), small(name).images(2)
    plan = _bucket(tiny)
    units = _given(plan)[:1].expand(2, -1)
    embeds, positions, into = _see(tiny, plan, images, units)
    assert torch.nonzero(into[0] >= 0)[:, 0].tolist() == units[0].tolist()
    assert into[0][units[0].long()].tolist() == list(range(plan.encoder.bucket))
    assert torch.equal(positions[0], torch.stack([units[0] // plan.grid[1], units[0] % plan.grid[1]], -1).float())
    gone = torch.nonzero(into[0] < 0)[:, 0]
    unseen = _see(tiny, plan, _other_pixels(tiny, plan, images, gone), units)[0]
    assert torch.equal(unseen, embeds)
    seen = _see(tiny, plan, _other_pixels(tiny, plan, images, units[0][:1]), units)[0]
    assert harness.difference(seen[:, 1:], embeds[:, 1:]) > SABOTAGE


@pytest.mark.parametrize("name", FAMILIES)
def test_all_units_are_the_plain_encoder(name: str) -> None:
    """Which no plan asks for, since that is the plain plan: the same arithmetic, whole."""
    tiny, images = small(name), small(name).images(2)
    plain = tiny.vision(tiny.plan)
    whole = copy.copy(_bucket(tiny))
    object.__setattr__(whole, "bucket", tiny.plan.units)
    with torch.no_grad():
        wanted = plain(images)
    for got, want in zip(_see(tiny, whole, images, torch.arange(whole.units).repeat(2, 1)), wanted, strict=True):
        assert harness.difference(got.float(), want.float()) < TOLERANCE


@pytest.mark.parametrize("sabotage", ["windows", "positions"])
def test_sabotage_is_seen(sabotage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps that attention reads, or rotary caches of other units, are not the whole encoder's arithmetic."""
    tiny, images = small("qwen2_5_vl"), small("qwen2_5_vl").images(2)
    plan = _bucket(tiny)
    units = _given(plan)
    right = _see(tiny, plan, images, units)[0]
    if sabotage == "windows":
        monkeypatch.setattr(pruned_windows, "GONE", 0.0)
    else:
        kept: Any = pruned_windows._kept
        monkeypatch.setattr(
            pruned_windows, "_kept", lambda values, index, patches: kept(values, index.flip(1), patches)
        )
    assert harness.difference(_see(tiny, plan, images, units)[0], right) > SABOTAGE


def test_budgets_stay_within_the_bucket_and_filter_the_row_of_units() -> None:
    tiny = small("qwen2_5_vl")
    thirds = replan(tiny.plan, keep=(20, 10, 0), last_layer="drop", schedule="list")
    plan = with_buckets({"some": thirds}, [25, 75])["some@75"]
    assert plan.keep == (18, 10, 0) and plan.llm.spectrum == "1d" and plan.vision_tokens == 18
