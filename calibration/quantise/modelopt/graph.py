"""A graph as nvidia-modelopt can take it: no functions, every product a named MatMul with a plain weight in fp32."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx.inliner
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from luvc_export.calibration.quantise.sites import Site, sites
from luvc_export.calibration.quantise.weight_packing import WeightPacker
from luvc_export.core.files.safe_files import write_new

GRAPH, WEIGHTS = "graph.onnx", "graph.weights"


class Product(NamedTuple):
    """Whose product it is: the name of the site, and the columns of its weight."""

    site: str
    columns: int


def write(model: ir.Model, folder: Path, keep: Collection[str] = ()) -> dict[str, Product]:
    """Write ``GRAPH`` and ``WEIGHTS`` to ``folder``.

    Args:
        model: A graph of a bundle in fp32; it is changed, and of no use afterwards.
        folder: An existing folder.
        keep: Sites that stay high because the user wants it.

    Returns:
        Products by the name of their MatMul node: all but those of sites that stay high.
    """
    graph, packer = model.graph, WeightPacker(folder, WEIGHTS)
    products: dict[str, Product] = {}
    for name, site in sites(graph).items():
        if site.high or name in keep:
            continue
        columns = int(packer.put(f"{name}.weight_plain", partial(_weight, site)).shape.numpy()[1])
        weight = packer.take(graph, f"{name}.weight_plain")
        for number, product in enumerate(site.products):
            at = f"{name}.{number}"
            products[at] = Product(name, columns)
            _plain(graph, product, weight, at)
    RemoveUnusedNodesPass()(model)
    for name, value in graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor | ir.LazyTensor):
            value.const_value = packer.put(name, partial(_itself, value.const_value))
    inlined = onnx.inliner.inline_local_functions(ir.to_proto(model))
    write_new(folder / GRAPH, _used_domains_only(inlined).SerializeToString())
    return products


def _weight(site: Site) -> ir.TensorProtocol:
    return ir.tensor(site.values())


def _itself(tensor: ir.ExternalTensor | ir.LazyTensor) -> ir.TensorProtocol:
    return tensor


def _plain(graph: ir.Graph, product: ir.Node, weight: ir.Value, name: str) -> None:
    """Put a MatMul called ``name`` in place of ``product``, a MatMul or a Gemm, and an Add of the bias of a Gemm."""
    nodes = [ir.node("MatMul", [product.inputs[0], weight], name=name)]
    if product.op_type == "Gemm" and len(product.inputs) > 2 and product.inputs[2] is not None:
        nodes.append(ir.node("Add", [nodes[0].outputs[0], product.inputs[2]], name=f"{name}.bias"))
    for node in nodes:
        node.outputs[0].name = f"{node.name}.out"
    graph.insert_before(product, nodes)
    old, out = product.outputs[0], nodes[-1].outputs[0]
    kept, out.shape, out.type = old.name, old.shape, old.type
    old.name = f"{kept}.replaced"
    old.replace_all_uses_with(out, replace_graph_outputs=True)
    graph.remove(product, safe=True)
    out.name = kept


def _used_domains_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without imports of domains that inlining left unused: ONNX Runtime refuses those it does not know."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model
