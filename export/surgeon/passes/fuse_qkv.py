"""Query, key and value projections of one layer become one MatMul, one Add and one Split.

It also removes the trigger of a known miscompile (TensorRT 10.13.3.9 on Thor fuses such products itself, wrongly, at
batch 1).

requires: Attention in the graph, and a target where joined products pay.
matches: products of one and the same tensor with weights, whose results reach one Attention as query, key and value.
apply: the weights become a Concat of the stored tensors, which back-ends fold when they load. Each column of a
product is summed as before: equal within the tolerance of a MatMul whose blocking may change.
must not touch: projections that read different tensors (the last layer's query with ``kv_only``: key and value are
then joined alone), quantised weights, weights stored in different types.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon import joined_weights
from luvc_export.export.surgeon.graph import Surgery, source

ORDER = 60

_WAY = ("Reshape", "Transpose", "RotaryEmbedding", "RMSNormalization", "Concat", "Cast", "Slice", "Add", "Split")


def requires(surgery: Surgery) -> str | None:
    """Attention somewhere, and a target that wants joined products."""
    return joined_weights.unwanted(surgery) if any(surgery.nodes("Attention")) else "there is no Attention"


def apply(surgery: Surgery) -> int:
    """Fuse layer by layer."""
    fired = 0
    for node in surgery.nodes("Attention"):
        products = [_product(tensor) for tensor in node.inputs[:3]]
        if any(item is None for item in products):
            surgery.skip("an Attention takes its inputs from something that is no projection")
            continue
        if products[0] is products[1] is products[2]:
            surgery.skip("query, key and value come from one product already")
            continue
        projections = [joined_weights.projection(item) for item in products if item is not None]
        if any(item is None for item in projections):
            surgery.skip("a projection's weight is computed or quantised")
            continue
        group = [item for item in projections if item is not None]
        if group[0].product.inputs[0] is not group[1].product.inputs[0]:
            surgery.skip(
                "a layer's queries read fewer rows than its keys and values (kv_only): key and value are joined"
            )
            group = group[1:]
        if any(item.product.inputs[0] is not group[0].product.inputs[0] for item in group):
            surgery.skip("projections read different tensors")
            continue
        fired += joined_weights.fuse(surgery, group)
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """Where something fired, no two of query, key and value products read one tensor.

    Raises:
        CheckFailed: Names the Attention whose projections are still apart.
    """
    for node in surgery.nodes("Attention") if fired and not surgery.reasons else ():
        products = [item for item in map(_product, node.inputs[:3]) if item is not None]
        if len({id(item) for item in products}) != 1:
            raise CheckFailed("query, key and value are still projected apart", where=node.name)


def _product(tensor: gs.Tensor) -> gs.Node | None:
    """The MatMul a query, key or value comes from, past heads, norms, rotation, caches and biases."""
    while (node := source(tensor)) is not None and node.op in _WAY:
        inputs = node.inputs
        tensor = inputs[-1] if node.op == "Concat" else inputs[0]
        if node.op == "Add" and source(tensor) is None:
            tensor = inputs[1]
    return node if node is not None and node.op == "MatMul" else None
