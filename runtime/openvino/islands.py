"""What stays in fp32 where products are in bf16, and what OpenVINO's CPU plug-in must be told for that.

The plug-in narrows every operator but two kinds. First what stands between the last products and an fp32 or integer
output ("tail of the graph", ``Graph::EnforceInferencePrecision``): ``merged_into`` is an output, so merge similarities,
and the residual sums above them, stay in fp32. Second everything that rotary cosines and sines are made from
(``MarkRopeInputsToKeepInMixedPrecision``). That keeps positions exact. In a pruned decoder it reaches further: the
cosines of a pruned layer are gathered by what the prune kept, so its scores, their spectrum, and every norm, sum and
product above them, up to the first layer, stay in fp32 too.

All of that is what exact scores need, except the products: two thirds of a plan's products in fp32 would cost what bf16
gains. ``narrow_products`` writes bf16 into the graph for those, so that they read and write bf16 and only they do. Sums
inside a product are in fp32 in any case, and so are those inside a norm.
"""

from __future__ import annotations

from typing import Any

_RANKED = "TopK"
_BETWEEN = ("Convert", "Transpose", "Reshape")


def narrow_products(library: Any, model: Any, bodies: dict[str, str]) -> int:
    """Compute the products with weights above a prune in bf16; returns how many.

    Args:
        library: ``openvino``.
        model: Changed.
        bodies: See ``inline.WrittenOut``.
    """
    fronts = tuple(front for front, function in bodies.items() if function == "SpectrumPrune")
    ranked = [node for node in model.get_ops() if fronts and node.get_friendly_name().startswith(fronts)]
    inside = {node.get_name() for node in ranked}
    found = 0
    for node in _above([node for node in ranked if node.get_type_name() == _RANKED]):
        if node.get_type_name() == "MatMul" and node.get_name() not in inside:
            found += _narrow(library, node)
    model.validate_nodes_and_infer_types()
    return found


def _above(nodes: list[Any]) -> list[Any]:
    """``nodes`` and everything they are computed from."""
    seen, todo, found = set[str](), list(nodes), list[Any]()
    while todo:
        node = todo.pop()
        if node.get_name() not in seen:
            seen.add(node.get_name())
            found.append(node)
            todo += [value.get_node() for value in node.input_values()]
    return found


def _narrow(library: Any, product: Any) -> bool:
    """Make a product of activations and a weight read and write bf16; False where it is no such product."""
    kind, chain = library.Type.bf16, []
    here = product.input_value(1).get_node()
    while here.get_type_name() in _BETWEEN:
        chain.append(here)
        here = here.input_value(0).get_node()
    if here.get_type_name() != "Constant" or not product.input_value(0).get_element_type().is_real():
        return False
    convert = library.opset13.convert
    weight = here.output(0) if here.get_element_type() == kind else convert(here, "bf16").output(0)
    if any(len(node.output(0).get_target_inputs()) > 1 for node in chain):
        weight = convert(product.input_value(1), "bf16").output(0)  # others read it in fp32
    else:
        for node in reversed(chain):
            if node.get_type_name() != "Convert":
                node.input(0).replace_source_output(weight)
                node.validate_and_infer_types()
                weight = node.output(0)
    readers = list(product.output(0).get_target_inputs())
    product.input(0).replace_source_output(convert(product.input_value(0), "bf16").output(0))
    product.input(1).replace_source_output(weight)
    product.validate_and_infer_types()
    wide = convert(product, "f32").output(0)
    for reader in readers:
        reader.replace_source_output(wide)
    return True
