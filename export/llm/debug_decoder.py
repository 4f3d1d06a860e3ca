"""The debug decoder: a copy of the traced one whose prunes take the kept indices as inputs (parity).

Made from the graph, not traced again: both then compute the same, and an export with ``--debug-graph`` costs one trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

from luvc_export.core import graph_io
from luvc_export.core.operators import SPECTRUM_CHOOSE
from luvc_export.errors import CheckFailed


def forced_decoder(model: ir.Model, layers: Sequence[int]) -> ir.Model:
    """Copy ``model`` with inputs ``forced_indices.N`` instead of selections, and without the outputs that tell them.

    Args:
        model: Decoder before surgery, marks with their bodies; not changed. Each prune selects with the two TopK of
            ``spu.select`` and the slice behind them, or is marked.
        layers: Layers before which a prune selects, ascending.

    Raises:
        CheckFailed: The graph does not hold one selection for each of ``layers``.
    """
    copy = model.clone()
    selections = [node for node in copy.graph if _selects(node)]
    if len(selections) != len(layers):
        raise CheckFailed(
            "the decoder's selections were not found",
            where=copy.graph.name or "decoder",
            got=f"{len(selections)} selections",
            expected=f"one before each of the layers {list(layers)}",
        )
    kept_names = {graph_io.kept_name(layer) for layer in layers}
    copy.graph.outputs[:] = [value for value in copy.graph.outputs if value.name not in kept_names]
    for layer, node in zip(layers, selections, strict=True):
        chosen = node.outputs[0]
        graph_input = ir.val(graph_io.forced_name(layer), ir.DataType.INT64, chosen.shape)
        chosen.replace_all_uses_with(graph_input)
        copy.graph.inputs.append(graph_input)
    passes.InlinePass()(copy)
    passes.RemoveUnusedNodesPass()(copy)
    unread = {
        graph_input.name
        for graph_input in copy.graph.inputs
        if graph_input.name == graph_io.VISUAL_PADDING and not graph_input.uses()
    }
    copy.graph.inputs[:] = [graph_input for graph_input in copy.graph.inputs if graph_input.name not in unread]
    return copy


def _selects(node: ir.Node) -> bool:
    """Whether this is the mark of a selection, or a slice of the TopK that puts what another one found in order."""
    if node.op_type == SPECTRUM_CHOOSE.name:
        return True
    ascending = node.inputs[0].producer() if node.op_type == "Slice" and node.inputs[0] is not None else None
    if ascending is None or ascending.op_type != "TopK" or ascending.attributes.get_int("largest", True):
        return False
    ranked = ascending.inputs[0].producer() if ascending.inputs[0] is not None else None
    return (
        ranked is not None
        and ranked.op_type == "TopK"
        and ascending.inputs[0] is ranked.outputs[1]
        and bool(ranked.attributes.get_int("largest", True))
    )
