"""Prunes: one node each with the plan's budgets, no other TopK, and a wrong body is caught."""

from __future__ import annotations

import json
from types import SimpleNamespace

import onnx
import pytest
from flat_plans import flat_plan, replan
from onnx import helper
from surgery_harness import Traced, broken, cut, edited, fired, opened, operators

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.surgeon.passes import fuse_spectrum_prune


def test_three_prunes_are_three_nodes(traced: Traced) -> None:
    pruned = cut(traced.decoder, fuse_spectrum_prune)
    nodes = [n for n in pruned.graph.node if n.domain == "luvc"]
    assert [n.op_type for n in nodes] == ["SpectrumPrune", "SpectrumPrune", "SpectrumDrop"]
    keeps = [next(a.i for a in n.attribute if a.name == "keep") for n in nodes]
    assert keeps == [keep for _, _, keep in traced.plan.prunes] == [12, 6, 0]
    assert not operators(pruned, "TopK")


def test_a_topk_is_never_of_no_rows() -> None:
    """A step has no image, and ONNX Runtime before 1.31 divides by zero."""
    body = bodies.spectrum_choose("residual", "token", padded=True)
    makers = {output: node.op_type for node in body.node for output in node.output}
    assert [makers[node.input[0]] for node in body.node if node.op_type == "TopK"] == ["Concat", "TopK"]


@pytest.mark.slow(beside="export/surgeon/passes/test_fuse_spectrum_prune.py::test_three_prunes_are_three_nodes")
def test_prune_leaves_other_topk(greedy: Traced, traced: Traced) -> None:
    """Scores that the node has not are traced as they are."""
    count, reason = fired(greedy.decoder, fuse_spectrum_prune)
    assert (count, "its score is no reading of the spectrum" in reason) == (0, True)
    assert operators(greedy.decoder, "TopK")
    assert fired(traced.vision, fuse_spectrum_prune) == (0, "the vision graph prunes nothing")


def test_rows_of_another_sequence_are_refused(traced: Traced) -> None:
    """Chosen in one tensor and kept of another: no one node computes that."""

    def crossed(model: onnx.ModelProto) -> None:
        keep = next(n for n in model.graph.node if n.op_type == "KeepRows")
        model.graph.node.insert(0, helper.make_node("Identity", [keep.input[4]], ["other_index"]))
        keep.input[4] = "other_index"

    with pytest.raises(CheckFailed, match=r"chooses tokens of rows that it does not keep(.|\n)*expected: one KeepRows"):
        cut(edited(traced.decoder, crossed), fuse_spectrum_prune)


def test_prune_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"low": "residual", "residual": "low", "ratio": "low"}[traced.plan.llm.method.name]
    texts = bodies.TEXTS
    monkeypatch.setitem(texts, f"score {traced.plan.llm.method.name}", texts[f"score {other}"])
    assert broken(traced.decoder, lambda: cut(traced.decoder, fuse_spectrum_prune), traced)


def test_prune_with_another_budget_is_caught(traced: Traced) -> None:
    def other_plan(model: onnx.ModelProto) -> None:
        plan = replan(traced.plan, keep=(12, 5, 0))
        next(p for p in model.metadata_props if p.key == "luvc.plan").value = json.dumps(plan.to_json())

    with pytest.raises(CheckFailed):
        cut(edited(traced.decoder, other_plan), fuse_spectrum_prune)


def test_a_drop_where_layers_begin_to_share_caches_is_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """No visual row comes to those layers: a plan that keeps some until then is whole without it, and not with it."""
    monkeypatch.setattr(fuse_spectrum_prune, "FusedNode", lambda node: SimpleNamespace(attribute=node.attrs.get))
    plan = replan(flat_plan((4, 6), (24, 12, 0)), shared=1)
    pruned = "p (float[n, 4] x) => (float[n, 4] y) { z = luvc.SpectrumPrune <tokens = 24, keep = 12> (x) y = %s (z) }"
    fuse_spectrum_prune.ensures(opened(pruned % "Relu", plan=plan), 1)
    dropped = opened(pruned % "luvc.SpectrumDrop <tokens = 12, keep = 0>", plan=plan)
    with pytest.raises(CheckFailed, match="the fused prunes are not the plan's"):
        fuse_spectrum_prune.ensures(dropped, 2)
