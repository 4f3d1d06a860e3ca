"""Inputs that nobody reads, in graphs for engines alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from surgery_harness import INPLACE, opened

from luvc_export.core.target import ORT_CPU
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.passes import drop_unread

GRAPH = """decoder (
    float[3, B, V] visual_position_ids, float[B, T] position_ids, int64[B] past_groups, int64[B, T] order
    ) => (float[B, T] logits) { logits = Abs(position_ids) }"""
ENGINE = replace(ORT_CPU, name="engine", kv="concat")


def test_what_nobody_reads_goes_and_other_names_stay() -> None:
    surgery = opened(GRAPH, ENGINE)
    assert drop_unread.requires(surgery) is None and drop_unread.apply(surgery) == 2
    assert [tensor.name for tensor in surgery.graph.inputs] == ["position_ids", "order"], "lint tells of order"
    drop_unread.ensures(surgery, 2)
    assert drop_unread.requires(surgery) == "every input is read"


def test_a_bundle_s_own_graph_keeps_its_inputs() -> None:
    assert drop_unread.requires(opened(GRAPH)) == "graphs of bundles have every input"


def test_an_input_that_stays_is_told() -> None:
    with pytest.raises(CheckFailed, match=r"read by nothing(.|\n)*visual_position_ids, past_groups"):
        drop_unread.ensures(opened(GRAPH, INPLACE), 1)
