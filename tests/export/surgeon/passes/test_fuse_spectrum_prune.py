"""Prunes: one node each with the plan's budgets, no other TopK, and a wrong body is caught."""

from __future__ import annotations

import json

import onnx
import pytest
from flat_plans import replan
from onnx import helper
from surgery_harness import Traced, broken, cut, edited, fired, operators

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.fused import prune_body
from luvc_export.export.surgeon.passes import fuse_spectrum_prune


def test_three_prunes_are_three_nodes(traced: Traced) -> None:
    made = cut(traced.decoder, fuse_spectrum_prune)
    nodes = [n for n in made.graph.node if n.domain == "luvc"]
    assert [n.op_type for n in nodes] == ["SpectrumPrune", "SpectrumPrune", "SpectrumDrop"]
    keeps = [next(a.i for a in n.attribute if a.name == "keep") for n in nodes]
    assert keeps == [keep for _, _, keep in traced.plan.prunes] == [12, 6, 0]
    assert not operators(made, "TopK")


def test_prune_leaves_other_topk(traced: Traced) -> None:
    def plain_score(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "ReduceL2":
                node.op_type = "ReduceSum"

    count, reason = fired(edited(traced.decoder, plain_score), fuse_spectrum_prune)
    assert (count, "no low-pass score" in reason) == (0, True)
    assert fired(traced.vision, fuse_spectrum_prune) == (0, "the vision graph prunes nothing")


def test_prune_with_a_large_basis(traced: Traced) -> None:
    """The exporter folds the transposed basis of small plans only; of a large one the Transpose is in the graph."""

    def unfold(model: onnx.ModelProto) -> None:
        names = {t.name: t for t in model.graph.initializer}
        turns = []
        for node in model.graph.node:
            basis = next((n for n in node.input if n in names and "basis_" in n), None)
            if node.op_type != "MatMul" or basis is None:
                continue
            back = next(n for n in model.graph.node if n.op_type == "MatMul" and node.output[0] in n.input)
            assert list(names[back.input[1]].dims) == list(names[basis].dims)[::-1]
            turned = helper.make_node("Transpose", [basis], [f"{basis}.turned"], perm=[1, 0])
            back.input[1] = turned.output[0]
            turns.append(turned)
        for turned in turns:
            model.graph.node.insert(0, turned)

    assert fired(edited(traced.decoder, unfold), fuse_spectrum_prune)[0] == 3


def test_prune_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"low": "residual", "residual": "low", "ratio": "low"}[traced.plan.llm.method.name]
    monkeypatch.setitem(prune_body._SCORE, traced.plan.llm.method.name, prune_body._SCORE[other])
    assert broken(traced.decoder, lambda: cut(traced.decoder, fuse_spectrum_prune), traced)


def test_prune_with_another_budget_is_caught(traced: Traced) -> None:
    def other_plan(model: onnx.ModelProto) -> None:
        plan = replan(traced.plan, keep=(12, 5, 0))
        next(p for p in model.metadata_props if p.key == "luvc.plan").value = json.dumps(plan.to_json())

    with pytest.raises(CheckFailed):
        cut(edited(traced.decoder, other_plan), fuse_spectrum_prune)
