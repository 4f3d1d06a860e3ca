"""A remembered cut is asked for again, and not where anything it reads has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import pytest
import remembered_cuts
from surgery_harness import INLINED, RTX, cut, edited, small

from luvc_export.core import operators
from luvc_export.core.target import TargetSpec
from luvc_export.export import surgeon
from luvc_export.export.surgeon.passes import call_plugins, drop_unread, fold_shapes, share_norm

GRAPH = "g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item a graph that would be cut; what is patched here is no module that passes read."""
    count: list[int] = []

    def copied(model: onnx.ModelProto, target: TargetSpec, **options: Any) -> Any:
        count.append(1)
        return onnx.ModelProto.FromString(model.SerializeToString()), None

    monkeypatch.setattr(remembered_cuts, "run_passes", copied)
    monkeypatch.setattr(remembered_cuts, "_cuts", {})
    return count


def test_the_same_again_is_remembered_and_may_be_changed(runs: list[int]) -> None:
    first = cut(small(GRAPH))
    before = first.SerializeToString()
    first.graph.node[0].op_type = "Abs"
    assert cut(small(GRAPH)).SerializeToString() == before and len(runs) == 1


def test_another_graph_target_option_or_list_of_passes_is_another(runs: list[int]) -> None:
    cut(small(GRAPH))
    cut(edited(small(GRAPH), lambda model: setattr(model.graph, "name", "h")))
    cut(small(GRAPH), target=INLINED)
    cut(small(GRAPH), target=RTX)
    cut(small(GRAPH), target=replace(RTX, topk_limit=5))
    cut(small(GRAPH), target=RTX, precision="fp16")
    cut(small(GRAPH), drop_unread)
    cut(small(GRAPH), fold_shapes)
    cut(small(GRAPH), fold_shapes, drop_unread)
    cut(small(GRAPH), drop_unread, fold_shapes)
    assert len(runs) == 10


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (share_norm, "_same"),
        (surgeon, "pass_list"),
        (call_plugins.VisualRows, "with_text"),
        (operators.OPERATORS, "OrthogonalMerge"),
    ],
    ids=["function", "list", "method", "entry"],
)
def test_sabotage_of_what_passes_read_is_never_hidden_by_an_earlier_result(
    runs: list[int], monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    cut(small(GRAPH))
    with monkeypatch.context() as patch:
        if isinstance(owner, dict):
            patch.setitem(owner, name, object())
        else:
            patch.setattr(owner, name, getattr(owner, name).__call__)
        cut(small(GRAPH))
    assert len(runs) == 2
    cut(small(GRAPH))
    assert len(runs) == 2, "as before: the first result again"
