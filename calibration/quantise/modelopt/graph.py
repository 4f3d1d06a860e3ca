"""Graphs that go to nvidia-modelopt and come back.

It takes no functions, and of every product a named MatMul with a plain weight in fp32. What it decided are the scales
of its Q/DQ pairs, by the product they feed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from luvc_export.calibration.quantise.recipe import Scales
from luvc_export.calibration.quantise.sites import sites
from luvc_export.calibration.quantise.weight_packing import WeightPacker
from luvc_export.core.files.safe_files import write_new
from luvc_export.errors import CheckFailed
from luvc_export.export import ir_edits

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
        columns = int(packer.put(f"{name}.weight_plain", partial(ir.tensor, site.values())).shape.numpy()[1])
        weight = packer.take(graph, f"{name}.weight_plain")
        for number, product in enumerate(site.products):
            at = f"{name}.{number}"
            products[at] = Product(name, columns)
            _plain(graph, product, weight, at)
    RemoveUnusedNodesPass()(model)
    packer.take_over(graph)
    inlined = onnx.inliner.inline_local_functions(ir.to_proto(model))
    write_new(folder / GRAPH, _used_domains_only(inlined).SerializeToString())
    return products


def _plain(graph: ir.Graph, product: ir.Node, weight: ir.Value, name: str) -> None:
    """Put a MatMul called ``name`` in place of ``product``, a MatMul or a Gemm, and an Add of the bias of a Gemm."""
    (out,) = ir_edits.add_node(graph, product, "MatMul", [product.inputs[0], weight], name)
    if (bias := ir_edits.bias(product)) is not None:
        out.name = f"{name}.out"
        (out,) = ir_edits.add_node(graph, product, "Add", [out, bias], f"{name}.bias")
    ir_edits.replace_output(graph, product, out)


def _used_domains_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without imports of domains that inlining left unused: ONNX Runtime refuses those it does not know."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


RESULT = "result.onnx"
_LEFT_HIGH = "nvidia-modelopt left it high"


def read(path: Path, products: Mapping[str, Product]) -> dict[str, Scales | str]:
    """The scales of every site; a text where the site must stay high, saying why.

    Of a weight that several products read, activations have one range here: the largest.

    Args:
        path: The graph that came back.
        products: Products by the name of their MatMul node, as ``graph.write`` gave them.

    Raises:
        CheckFailed: The graph cannot be read, or says of a product what our graphs cannot say. Names the product.
    """
    try:
        nodes = {node.name: node for node in ir.load(path).graph}
    except Exception as error:  # protobuf's and onnx_ir's own, and what the system says
        raise _refused("the graph that nvidia-modelopt wrote cannot be read", path, error, "an ONNX file") from error
    decisions: dict[str, Scales | str] = {}
    for product, (site, columns) in products.items():
        node = nodes.get(product)
        if node is None or node.op_type != "MatMul":
            got = "no such node" if node is None else node.op_type
            raise _refused("a product is gone from what nvidia-modelopt wrote", path, f"{product}: {got}", "a MatMul")
        decisions[site] = _together(decisions.get(site), _decided(node, columns, path), product, path)
    return decisions


def _decided(node: ir.Node, columns: int, path: Path) -> Scales | str:
    producers = [value.producer() if value is not None else None for value in node.inputs]
    dequantised = [item is not None and item.op_type == "DequantizeLinear" for item in producers]
    if not any(dequantised):
        return _LEFT_HIGH
    if not all(dequantised):
        which = "weight" if dequantised[0] else "activation"
        raise _refused(
            "nvidia-modelopt quantised one side of a product only",
            path,
            f"{node.name}: {which} in fp32",
            "both or none",
        )
    activation, weight = producers
    assert activation is not None and weight is not None and node.name is not None
    top = _scale(activation, node.name, "activation", path)
    if top.size != 1:
        raise _unlike(node.name, "activation", path, f"{top.size} scales", "one scale")
    scale = _scale(weight, node.name, "weight", path)
    if scale.ndim == 1 and scale.size > 1 and weight.attributes.get_int("axis", 1) not in (1, -1):
        raise _unlike(node.name, "weight", path, "a scale a row", "a scale a column, or one")
    if scale.size not in (1, columns):
        raise _unlike(node.name, "weight", path, f"{scale.size} scales", f"{columns}, a scale a column, or one")
    return Scales(float(top.reshape(())), np.broadcast_to(scale.reshape(-1), (columns,)))


def _scale(node: ir.Node, product: str, side: str, path: Path) -> NDArray[np.float32]:
    """The scale of a DequantizeLinear, checked to be of symmetric INT8."""
    if node.attributes.get_int("block_size", 0):
        raise _unlike(product, side, path, "scales in blocks", "a scale a column, or one")
    arrays = [None if value is None or value.const_value is None else value.const_value for value in node.inputs[1:]]
    if not arrays or any(array is None for array in arrays):
        raise _unlike(product, side, path, "a scale or zero point that is computed", "constants")
    scale = arrays[0].numpy().astype(np.float32)  # type: ignore[union-attr]
    zero = arrays[1].numpy() if len(arrays) > 1 else None  # type: ignore[union-attr]
    if zero is None or zero.dtype != np.int8 or np.any(zero):
        got = "no zero point" if zero is None else f"{zero.dtype} around {zero.reshape(-1)[:1]}"
        raise _unlike(product, side, path, got, "int8 around 0")
    if scale.ndim > 1 or not np.all(np.isfinite(scale) & (scale > 0)):
        raise _unlike(product, side, path, f"scales {scale.shape} down to {scale.min()}", "positive numbers")
    return scale


def _together(before: Scales | str | None, now: Scales | str, product: str, path: Path) -> Scales | str:
    """One decision for the products that read one weight."""
    if before is None or isinstance(before, str) or isinstance(now, str):
        return now if before is None or isinstance(now, str) else before
    if not np.array_equal(before.weight, now.weight):
        raise _unlike(product, "weight", path, "other scales than at another product of it", "one weight, one choice")
    return Scales(max(before.activation, now.activation), now.weight)


def _unlike(product: str, side: str, path: Path, got: str, expected: str) -> CheckFailed:
    what = f"nvidia-modelopt decided what the {side} of our product cannot be"
    return _refused(what, path, f"{product}: {got}", expected)


def _refused(what: str, path: Path, got: object, expected: str) -> CheckFailed:
    fix = "use the default back-end, or --keep-high this product"
    return CheckFailed(what, where=path.name, got=str(got)[:300], expected=expected, fix=fix)
