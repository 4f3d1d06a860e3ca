"""Edits of an ``onnx_ir`` graph by those who put other products in the place of its own: nodes, constants, outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir


def add_node(
    graph: ir.Graph,
    before: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    domain: str = "",
    attributes: Mapping[str, Any] | None = None,
    outputs: int = 1,
) -> tuple[ir.Value, ...]:
    """Put a node called ``name`` in front of another; its outputs are called ``name``, ``name.1`` and so on."""
    node = ir.node(op, inputs, attributes=attributes, domain=domain, name=name, num_outputs=outputs)
    for number, out in enumerate(node.outputs):
        out.name = f"{name}.{number}" if number else name
    graph.insert_before(before, node)
    return tuple(node.outputs)


def constant(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """The initializer with ``tensor``'s name, which is registered if the graph has none."""
    name = str(tensor.name)
    if name not in graph.initializers:
        shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        graph.register_initializer(ir.Value(name=name, shape=shape, type=kind, const_value=tensor))
    return graph.initializers[name]


def bias(product: ir.Node) -> ir.Value | None:
    """What a Gemm adds to its product; None for a MatMul and for a Gemm without."""
    return product.inputs[2] if product.op_type == "Gemm" and len(product.inputs) > 2 else None


def replace_output(graph: ir.Graph, product: ir.Node, out: ir.Value) -> None:
    """Remove a node of one output; ``out`` takes that output's name, shape, type and readers."""
    old = product.outputs[0]
    name, out.shape, out.type = old.name, old.shape, old.type
    old.name = f"{name}.replaced"
    old.replace_all_uses_with(out, replace_graph_outputs=True)
    graph.remove(product, safe=True)
    out.name = name
