"""A conversation's newest rows apart from its cache: a step gives back few rows, and copies none of the others.

A decoder's graph takes keys and values, appends the call's rows, and gives all of them back. So that nothing writes to
a cache twice, each step would write a whole one, into fresh memory: after a picture of 1,024 tokens that costs more
than the attention over it. Here every cache input becomes two, the rows that stand and the newest ones (``NEWEST``),
and the graph gives back the newest ones with the call's behind them.

In a graph that takes steps alone, attention is then two products over the rows as they lie, and two over the newest:
their scores are joined for one softmax, and no row of the cache is copied, scaled or transposed. Where prompts go
through the same graph the rows are joined inside it, and attention is as ``heads`` leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luvc_export.core.shapes import State
from luvc_export.runtime.host.cache import NEWEST
from luvc_export.runtime.openvino.heads import has_one_mask, to_cache

_ATTENTION = "ScaledDotProductAttention"


def split_caches(library: Any, model: Any, states: Sequence[State]) -> tuple[str, ...]:
    """Have each cache in two inputs; returns the names of those added, in no order.

    Left as it is: a state that the graph does not give back as its input with the call's rows behind it, or reads
    apart from those, as codes of caches are.

    Args:
        library: ``openvino``.
        model: Changed.
        states: Of the decoder (``DecoderShape.kept``).
    """
    ops = library.opset13
    inputs = {name: node for node in model.get_parameters() for name in node.get_output_tensor(0).get_names()}
    results = {name: node for node in model.get_results() for name in node.get_output_tensor(0).get_names()}
    added = []
    for state in states:
        rows, result = inputs.get(state.past), results.get(state.present)
        if state.axis is None or rows is None or result is None or not _joins(result, rows, state.axis):
            continue
        joined, axis = result.input_value(0).get_node(), state.axis
        newest = ops.parameter(rows.get_partial_shape(), rows.get_element_type(), state.past + NEWEST)
        newest.get_output_tensor(0).set_names({state.past + NEWEST})
        after = ops.concat([newest, joined.input_value(1)], axis)
        _redirect_sizes(ops, rows, newest, axis)
        cache = ops.concat([rows, after], axis)
        cache.set_friendly_name(joined.get_friendly_name())
        for reader in joined.output(0).get_target_inputs():
            is_result = reader.get_node().get_type_name() == "Result"
            reader.replace_source_output((after if is_result else cache).output(0))
        joined.get_output_tensor(0).set_names(set())
        after.get_output_tensor(0).set_names({state.present})
        model.add_parameters([newest])
        added.append(state.past + NEWEST)
    model.validate_nodes_and_infer_types()
    return tuple(added)


def _joins(result: Any, rows: Any, axis: int) -> bool:
    """Whether an output is the input ``rows`` with others behind them, which nobody else reads."""
    joined = result.input_value(0).get_node()
    if joined.get_type_name() != "Concat" or joined.get_input_size() != 2:
        return False
    readers = [reader.get_node() for reader in rows.output(0).get_target_inputs()]
    if any(reader.get_type_name() != "ShapeOf" and not _is_same(reader, joined) for reader in readers):
        return False
    placed = joined.get_attributes()["axis"] % len(rows.get_partial_shape())
    return _is_same(joined.input_value(0).get_node(), rows) and placed == axis


def _is_same(one: Any, other: Any) -> bool:
    return bool(one.get_name() == other.get_name())


def _redirect_sizes(ops: Any, rows: Any, newest: Any, axis: int) -> None:
    """Who asks how many rows there were is told of both."""
    readers = [reader.get_node() for reader in rows.output(0).get_target_inputs()]
    for reader in readers:
        if reader.get_type_name() != "ShapeOf":
            continue
        kind = reader.get_output_element_type(0).to_string()
        along = np.eye(len(rows.get_partial_shape()), dtype=np.int32 if kind == "i32" else np.int64)[axis]
        more = ops.multiply(ops.shape_of(newest, kind), along)
        both = ops.add(ops.shape_of(rows, kind), more)
        for asking in list(reader.output(0).get_target_inputs()):
            asking.replace_source_output(both.output(0))


def attend_in_two(library: Any, model: Any) -> int:
    """Compute attention over the rows of a cache and its newest ones without joining them; returns how many changed.

    Args:
        library: ``openvino``.
        model: Of steps alone: there are rows in each cache. Changed.
    """
    count = 0
    for attention in [node for node in model.get_ordered_ops() if node.get_type_name() == _ATTENTION]:
        chains = [to_cache(attention.input_value(index).get_node()) for index in (1, 2)]
        if all(chains) and has_one_mask(attention):
            count += _in_two(library.opset13, attention, *(chain[-1] for chain in chains))
    model.validate_nodes_and_infer_types()
    return count


def _in_two(ops: Any, attention: Any, keys: Any, values: Any) -> bool:
    """Change one attention of queries [B, H, L, D] over [B, Hkv, S, D]; False where its caches are not in two."""
    queries, mask = attention.input_value(0), attention.input_value(3)
    shapes = [value.get_partial_shape() for value in (queries, keys.output(0), values.output(0))]
    if any(shape.rank.is_dynamic or shape[1].is_dynamic or shape[3].is_dynamic for shape in shapes):
        return False
    heads, *cached = (shape[1].get_length() for shape in shapes)
    if not (_is_split(keys) and _is_split(values) and cached[0] == cached[1]):
        return False
    width, shared = shapes[0][3].get_length(), heads // cached[0]
    scale = attention.input_value(4) if attention.get_input_size() > 4 else np.float32(width**-0.5)
    rows = ops.reshape(ops.multiply(queries, scale), _whole(0, cached[0], -1, width), True)
    parts = [ops.matmul(rows, part, False, True) for part in keys.input_values()]
    scores = ops.add(ops.concat(parts, -1), _of_groups(ops, queries, mask, shared))
    standing = ops.gather(ops.shape_of(keys.input_value(0), "i64"), _whole(2), np.array(0, np.int64))
    lengths = ops.concat([standing, _whole(-1)], 0)
    shares = ops.variadic_split(ops.softmax(scores, -1), np.array(3, np.int64), lengths)
    sums = [ops.matmul(shares.output(at), values.input_value(at), False, False) for at in (0, 1)]
    attended = ops.reshape(ops.add(*sums), _whole(0, heads, -1, shapes[2][3].get_length()), True)
    for reader in list(attention.output(0).get_target_inputs()):
        reader.replace_source_output(attended.output(0))
    return True


def _of_groups(ops: Any, queries: Any, mask: Any, shared: int) -> Any:
    """What is added to scores [B, Hkv, shared * L, S]: the mask [B, 1, L, S] once for each head of a group.

    One row is every row's, and is not repeated.
    """
    if mask.get_element_type().to_string() == "boolean":
        mask = ops.select(mask, np.float32(0), np.float32(-np.inf)).output(0)
    count = ops.gather(ops.shape_of(queries, "i64"), _whole(2), np.array(0, np.int64))
    repeats = ops.select(ops.greater(count, _whole(1)), _whole(shared), _whole(1))
    return ops.tile(mask, ops.concat([_whole(1, 1), repeats, _whole(1)], 0))


def _is_split(cache: Any) -> bool:
    """Whether a cache is the rows that stand, an input as it comes, and the newest ones with the call's."""
    rows, newest = (value.get_node() for value in cache.input_values())
    if rows.get_type_name() != "Parameter" or newest.get_type_name() != "Concat":
        return False
    return any(name.endswith(NEWEST) for name in newest.input_value(0).get_names())


def _whole(*values: int) -> Any:
    return np.array(values, np.int64)
