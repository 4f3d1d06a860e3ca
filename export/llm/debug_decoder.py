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
            ``spu.select``, or is marked.
        layers: Layers before which a prune selects, ascending.

    Raises:
        CheckFailed: The graph does not hold one selection for each of ``layers``.
    """
    made = model.clone()
    found = [node for node in made.graph if _selects(node)]
    if len(found) != len(layers):
        raise CheckFailed(
            "the decoder's selections were not found",
            where=made.graph.name or "decoder",
            got=f"{len(found)} selections",
            expected=f"one before each of the layers {list(layers)}",
        )
    told = {graph_io.kept_name(layer) for layer in layers}
    made.graph.outputs[:] = [value for value in made.graph.outputs if value.name not in told]
    for layer, node in zip(layers, found, strict=True):
        chosen = node.outputs[0]
        given = ir.val(graph_io.forced_name(layer), ir.DataType.INT64, chosen.shape)
        chosen.replace_all_uses_with(given)
        made.graph.inputs.append(given)
    passes.InlinePass()(made)
    passes.RemoveUnusedNodesPass()(made)
    unread = {given.name for given in made.graph.inputs if given.name == graph_io.VISUAL_PADDING and not given.uses()}
    made.graph.inputs[:] = [given for given in made.graph.inputs if given.name not in unread]
    return made


def _selects(node: ir.Node) -> bool:
    """Whether this is the mark of a selection, or the TopK that puts what another one found in ascending order."""
    if node.op_type == SPECTRUM_CHOOSE.name:
        return True
    ranked = node.inputs[0].producer() if node.op_type == "TopK" and node.inputs[0] is not None else None
    if ranked is None or ranked.op_type != "TopK" or node.inputs[0] is not ranked.outputs[1]:
        return False
    return not node.attributes.get_int("largest", 1) and bool(ranked.attributes.get_int("largest", 1))
