"""Merges: one node each, no other TopK, and a wrong body is caught."""

from __future__ import annotations

import pytest
from surgery_harness import Traced, broken, cut, fired, operators, small

from luvc_export.export.surgeon.fused import bodies
from luvc_export.export.surgeon.passes import fuse_orthogonal_merge


def test_merge_is_one_node(traced: Traced) -> None:
    merged = cut(traced.vision, fuse_orthogonal_merge)
    nodes = [n for n in merged.graph.node if n.domain == "luvc"]
    assert [n.op_type for n in nodes] == ["OrthogonalMerge"]
    attributes = {a.name: a.i for a in nodes[0].attribute}
    assert (attributes["rows"], attributes["columns"], attributes["height"], attributes["width"]) == (1, 1, 4, 6)
    assert {f.name for f in merged.functions} == {"OrthogonalMerge", "MergeAxis"}
    assert not operators(merged, "TopK")


def test_merge_leaves_other_topk(traced: Traced) -> None:
    text = """g (uint8[n,1,28,28,3] image) => (int64[n,1,28,28,2] y) <int64[1] k = {2}> {
        x = Cast<to=1>(image)
        v, y = TopK<axis=-1>(x, k)
    }"""
    count, reason = fired(small(text, traced.plan), fuse_orthogonal_merge)
    assert count == 0 and "no merge is marked" in reason
    assert fired(traced.decoder, fuse_orthogonal_merge)[0] == 0


def test_merge_sabotage(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = bodies.TEXTS["decide"].replace("Greater (right, left)", "Less (right, left)")
    monkeypatch.setitem(bodies.TEXTS, "decide", wrong)
    assert broken(traced.vision, lambda: cut(traced.vision, fuse_orthogonal_merge), traced)
