"""The head of a decoder apart from it: one engine computes the logits of rows that another gives.

A prompt's decoder and that of its steps, of one model, end in the same norm and head, and the head is a large part of a
decoder's weights. Here a graph is cut where the rows whose logits are asked for are gathered, before the last norm: it
gives back those rows, and norm and head become a graph of their own.
"""

from __future__ import annotations

from typing import Any

from luvc_export.core import graph_io

#: Input of a head alone: rows [N, D] before the last norm.
ROWS = "head_rows"


def without_head(model: Any) -> bool:
    """Have a decoder give back rows [N, D] in the place of logits; False where it cannot be cut.

    Args:
        model: Of ``openvino``. Changed, but for the names and the order of its outputs.
    """
    cut = _cut(model)
    if cut is None:
        return False
    result, _, rows = cut
    result.input(0).replace_source_output(rows)
    model.validate_nodes_and_infer_types()
    return True


def head_alone(library: Any, model: Any) -> Any | None:
    """Norm and head as a model from ``ROWS`` to logits [N, vocab]; None where a decoder cannot be cut.

    Args:
        library: ``openvino``.
        model: Changed: it is of no further use.
    """
    cut = _cut(model)
    if cut is None:
        return None
    _, scores, rows = cut
    parameter = library.opset13.parameter(rows.get_partial_shape(), rows.get_element_type(), ROWS)
    parameter.get_output_tensor(0).set_names({ROWS})
    for reader in list(rows.get_target_inputs()):
        reader.replace_source_output(parameter.output(0))
    return library.Model([library.opset13.result(scores)], [parameter], "head")


def _cut(model: Any) -> tuple[Any, Any, Any] | None:
    """A decoder's result of logits, what it is without its last shape [N, vocab], and the rows it is made of.

    None where logits are made of anything else than rows that were gathered, and constants.
    """
    results = [node for node in model.get_results() if graph_io.LOGITS in node.get_output_tensor(0).get_names()]
    if len(results) != 1:
        return None
    scores = results[0].input_value(0)
    if scores.get_node().get_type_name() == "Reshape":
        scores = scores.get_node().input_value(0)
    todo, seen, rows = [scores], set[str](), dict[str, Any]()
    while todo:
        value = todo.pop()
        node = value.get_node()
        name, kind = node.get_name(), node.get_type_name()
        if name in seen:
            continue
        seen.add(name)
        if kind == "Gather" and _is_row_choice(node):
            rows[name] = value
        elif kind in ("Parameter", "ShapeOf"):
            return None
        else:
            todo += node.input_values()
    return (results[0], scores, next(iter(rows.values()))) if len(rows) == 1 else None


def _is_row_choice(gather: Any) -> bool:
    """Whether rows [N, D] are chosen among others that were computed."""
    data, axis = gather.input_value(0).get_node(), gather.input_value(2).get_node()
    shape = gather.get_output_partial_shape(0)
    chosen = shape.rank.is_static and shape.rank.get_length() == 2 and shape[1].is_static
    return bool(chosen and data.get_type_name() != "Constant" and _is_first(axis))


def _is_first(axis: Any) -> bool:
    return bool(axis.get_type_name() == "Constant" and not axis.data.any())
