"""Query heads that share a cached head, at a step of a few tokens: computed as rows over that head, nothing copied.

OpenVINO's rule for ONNX's Attention copies every cached head to each of its query heads, and the CPU plug-in then
scales and transposes those copies: at each step that is a pass over ``heads / kv_heads`` times the cache for few rows
of queries. Where a call brings at most ``STEP`` rows (a token, or one and a draft behind it), the query heads of a
group are laid out as the rows of one head instead, the mask's rows are repeated for each, and the cache is read as it
lies. Where it brings more everything is as before. Shapes inside the graph say which of the two it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Rows of a step at most: the longest draft and the token before it.
STEP = 33
_ATTENTION = "ScaledDotProductAttention"
_WIDENING = ("Convert", "Subtract", "Multiply")
_COPIES = ("Reshape", "Tile", "Broadcast", "Unsqueeze")


def group_heads(library: Any, model: Any) -> int:
    """Lay out grouped heads as rows in every attention over a cache; returns how many were changed.

    Args:
        library: ``openvino``.
        model: Changed.
    """
    count = 0
    for attention in [node for node in model.get_ordered_ops() if node.get_type_name() == _ATTENTION]:
        chains = [to_cache(attention.input_value(index).get_node()) for index in (1, 2)]
        if all(chains):
            count += _group(library.opset13, attention, [chain[-1] for chain in chains])
    model.validate_nodes_and_infer_types()
    return count


def to_cache(node: Any) -> list[Any]:
    """``node`` and what copies its heads, up to where new rows join a cache; empty where none do."""
    chain = [node]
    while chain[-1].get_type_name() in _COPIES:
        chain.append(chain[-1].input_value(0).get_node())
    joins = chain[-1].get_type_name() == "Concat"
    return chain if joins and any(_is_past(value.get_node()) for value in chain[-1].input_values()) else []


def _is_past(node: Any) -> bool:
    """Whether ``node`` is an input, or what its codes stand for."""
    while node.get_type_name() in _WIDENING:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Parameter")


def _group(ops: Any, attention: Any, caches: list[Any]) -> bool:
    """Change one attention: queries [B, H, L, D], caches [B, Hkv, S, D]; False where that is not so."""
    values = [attention.input_value(0), *(node.output(0) for node in caches)]
    shapes = [value.get_partial_shape() for value in values]
    if any(shape.rank.is_dynamic or shape[1].is_dynamic or shape[3].is_dynamic for shape in shapes):
        return False
    heads, *kept = (shape[1].get_length() for shape in shapes)
    if kept[0] != kept[1] or heads == kept[0] or not has_one_mask(attention):
        return False
    rows = ops.gather(ops.shape_of(values[0], "i64"), _whole(2), np.array(0, np.int64))
    shared = heads // kept[0]
    copies = ops.select(ops.less_equal(rows, _whole(STEP)), _whole(1), _whole(shared))
    for index in (1, 2):
        turned = ops.unsqueeze(values[index], _whole(2))
        values[index] = ops.tile(turned, ops.concat([_whole(1, 1), copies, _whole(1, 1)], 0)).output(0)
    count = ops.multiply(copies, _whole(kept[0]))
    laid_out = []
    for value, shape in zip(values, shapes, strict=True):
        target = ops.concat([_whole(0), count, _whole(-1, shape[3].get_length())], 0)
        laid_out.append(ops.reshape(value, target, True))
    mask, *others = (attention.input_value(index) for index in range(3, attention.get_input_size()))
    several = ops.logical_and(ops.greater(rows, _whole(1)), ops.less_equal(rows, _whole(STEP)))
    repeats = ops.select(several, _whole(shared), _whole(1))  # the mask of one row is every row's
    others.insert(0, ops.tile(mask, ops.concat([_whole(1, 1), repeats, _whole(1)], 0)).output(0))
    attended = ops.scaled_dot_product_attention(*laid_out, *others)
    whole = ops.reshape(attended, _whole(0, heads, -1, shapes[2][3].get_length()), True)
    for reader in list(attention.output(0).get_target_inputs()):
        reader.replace_source_output(whole.output(0))
    return True


def has_one_mask(attention: Any) -> bool:
    """Whether a mask, the same for all heads, says all that must not be seen."""
    if attention.get_input_size() < 4 or attention.get_attributes()["causal"]:
        return False
    shape = attention.input_value(3).get_partial_shape()
    return bool(shape.rank.is_static and shape.rank.get_length() == 4 and shape[1].is_static and shape[1] == 1)


def _whole(*values: int) -> Any:
    return np.array(values, np.int64)
