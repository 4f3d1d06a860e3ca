"""States beside keys and values: names, shapes, bytes, and what a plan may not do to layers that have them instead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from luvc_export.core import graph_io
from luvc_export.core.budgets import kv_bytes
from luvc_export.core.planning import PlanRequest, check_model, solve
from luvc_export.core.shapes import ROWS, DecoderShape, EncoderShape, LayerShape, State, row_counts
from luvc_export.errors import PlanError
from luvc_export.runtime.host_backend import empty_states

STATES = (State(0, "convolution", (8, 2), "float32"), State(1, "place", (ROWS,), "int64"))
SHAPE = DecoderShape(
    layers=2,
    hidden=8,
    heads=2,
    kv_heads=1,
    head_dim=4,
    intermediate=16,
    vocab=32,
    context=64,
    per_layer=(LayerShape(0, 4, 16, 0), LayerShape(1, 4, 16, 1)),
    states=STATES,
)


def test_what_is_kept_has_names_and_shapes_in_graph_order() -> None:
    names = ["past_states.0.convolution", "past_key_values.1.key", "past_key_values.1.value", "past_states.1.place"]
    assert [state.past for state in SHAPE.kept] == names
    assert sorted(graph_io.cache_inputs(2, names)) == sorted(names)
    assert [graph_io.present_name(name) for name in names] == [state.present for state in SHAPE.kept]
    sizes = [state.sizes(3, 5) for state in SHAPE.kept]
    assert sizes == [(3, 8, 2), (3, 1, 5, 4), (3, 1, 5, 4), (3, 5)]
    assert row_counts(SHAPE.kept, sizes) == (0, 5)
    assert (SHAPE.running, SHAPE.keyless) == ((0,), (0,))


def test_a_conversation_begins_with_zeros_and_no_rows() -> None:
    begun = empty_states(SHAPE.kept, 2)
    assert [array.shape for array in begun] == [(2, 8, 2), (2, 1, 0, 4), (2, 1, 0, 4), (2, 0)]
    assert [array.dtype for array in begun] == [np.float32] * 3 + [np.int64] and not begun[0].any()


def test_bytes_of_states_do_not_grow_unless_they_have_a_value_a_row() -> None:
    assert kv_bytes(SHAPE, (3, 3), 5) == (8 * 2 * 4, 8 * (2 * 4 * 2 + 8))


def test_bytes_count_what_stands_where_rows_leave_a_window() -> None:
    windowed = replace(SHAPE, states=(STATES[0], replace(STATES[1], window=8)))
    each = 2 * 4 * 2 + 8
    assert windowed.most_rows == {1: 9}
    assert [kv_bytes(windowed, (3, 3), text)[1] for text in (5, 6, 7, 999)] == [8 * each, *[9 * each] * 3]


def test_an_input_that_is_missing_is_named() -> None:
    assert graph_io.cache_inputs(1, []) == ["past_key_values.0.key", "past_key_values.0.value"]
    assert graph_io.cache_inputs(1, ["past_states.0.place", "past_key_values.0.key"])[1] == "past_key_values.0.value"


@pytest.mark.parametrize(("fields", "where"), [({"kv_only": (0,)}, "kv_only: layer 0"), ({}, "")])
def test_a_layer_without_keys_cannot_be_left_with_them_alone(fields: dict[str, tuple[int, ...]], where: str) -> None:
    encoder = EncoderShape(1, 8, 16, 1, 0, (0,))
    plan = solve(PlanRequest(), (2, 2), SHAPE, encoder)
    plan = plan.changed(keep=(4, 0), last_layer="drop", **fields)
    if not fields:
        check_model(plan, SHAPE, encoder)
        return
    with pytest.raises(PlanError, match=where):
        check_model(plan, SHAPE, encoder)
