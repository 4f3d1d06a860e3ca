"""What stays in fp32 where products are in bf16, and what OpenVINO's CPU plug-in must be told for that.

The plug-in narrows every operator but two kinds. First what stands between the last products and an fp32 or integer
output ("tail of the graph", ``Graph::EnforceInferencePrecision``): ``merged_into`` is an output, so merge similarities,
and the residual sums above them, stay in fp32. Second everything that rotary cosines and sines are made from
(``MarkRopeInputsToKeepInMixedPrecision``). That keeps positions exact. In a pruned decoder it reaches further: the
cosines of a pruned layer are gathered by what the prune kept, so its scores, their spectrum, and every norm, sum and
product above them, up to the first layer, stay in fp32 too.

All of that is what exact scores need, except the products: two thirds of a plan's products in fp32 would cost what bf16
gains. ``narrow_products`` writes bf16 into the graph for those, for what lies between the products of a gated MLP, and
for attention with its keys and values, so that they read and write bf16 and only they do. Sums inside a product are in
fp32 in any case, and so are those inside a norm. An MLP is narrowed as one: with conversions between its products the
plug-in would not recognise it (``MLPFusion``), and would run it as three products that go through memory.
"""

from __future__ import annotations

from typing import Any

_WIDENING = ("Convert", "Subtract", "Multiply")
_COPIES = ("Reshape", "Tile", "Broadcast", "Unsqueeze")


_RANKED = "TopK"
_BETWEEN = ("Convert", "Transpose", "Reshape")
_TYPELESS = ("Result", "ShapeOf")
_GATES = ("Multiply", "Sigmoid", "Swish", "Gelu")


def narrow_products(library: Any, model: Any) -> int:
    """Compute products with weights and attention above a prune in bf16; returns how many of both.

    What only decides which rows stay, fused (``luvc.SpectrumPrune``) or not, is left in fp32.

    Args:
        library: ``openvino``.
        model: A decoder, changed.
    """
    ranked = [node for node in model.get_ops() if node.get_type_name() == _RANKED]
    answering = {node.get_name() for node in _above(model.get_results(), past=_RANKED)} if ranked else set[str]()
    count = 0
    for node in _above(ranked):
        if node.get_name() not in answering:
            continue
        if node.get_type_name() == "MatMul":
            count += _narrow_gate(library, node) + _narrow(library, node)
        elif node.get_type_name() == "ScaledDotProductAttention":
            count += _narrow_attention(library, node)
    model.validate_nodes_and_infer_types()
    return count


def narrow_floats(library: Any, model: Any) -> int:
    """Compute products whose weights are floats in bf16, in a graph that computes in fp32; returns how many.

    For steps of quantised plans: weights in codes want fp32 activations, the head and what else was kept high do not.
    """
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    count = sum(_narrow(library, product) for product in products)
    model.validate_nodes_and_infer_types()
    return count


def _above(nodes: list[Any], past: str = "") -> list[Any]:
    """``nodes`` and everything they are computed from, but for what operators of type ``past`` alone are."""
    seen, todo, above = set[str](), list(nodes), list[Any]()
    while todo:
        node = todo.pop()
        if node.get_name() not in seen:
            seen.add(node.get_name())
            above.append(node)
            todo += [value.get_node() for value in node.input_values() if node.get_type_name() != past]
    return above


def _narrow(library: Any, product: Any) -> bool:
    """Make a product of activations and a weight read and write bf16; False where it is no such product.

    Who reads it gets the type that it wrote before: graphs may be in fp16, which operators do not mix with fp32.
    """
    if not _has_weight(library, product):
        return False
    readers, stored = list(product.output(0).get_target_inputs()), product.output(0).get_element_type()
    _narrow_inputs(library, product, product.input_value(0))
    wide = library.opset13.convert(product, stored).output(0)
    for reader in readers:
        reader.replace_source_output(wide)
    return True


def _narrow_gate(library: Any, last: Any) -> int:
    """Narrow both products of a gate and what lies between them and ``last``; returns how many: 2, or 0 for no gate."""
    between, products, todo = list[Any](), dict[str, Any](), [last.input_value(0).get_node()]
    while todo:
        node = todo.pop()
        if node.get_type_name() == "MatMul":
            products[node.get_name()] = node
        elif node.get_type_name() in _GATES:  # after all that reads it
            between = [*(other for other in between if other.get_name() != node.get_name()), node]
            todo += [value.get_node() for value in node.input_values()]
        else:
            return 0
    inside = {last.get_name(), *(node.get_name() for node in between)}
    outputs = [node.output(0) for node in (*between, *products.values())]
    readers = {port.get_node().get_name() for value in outputs for port in value.get_target_inputs()}
    sources = [node.input_value(0) for node in products.values()]
    if len(products) != 2 or sources[0] != sources[1] or not readers <= inside:
        return 0
    if not all(_has_weight(library, node) for node in (*products.values(), last)):
        return 0
    source = library.opset13.convert(sources[0], "bf16").output(0)
    for node in products.values():
        _narrow_inputs(library, node, source)
    for node in reversed(between):
        node.validate_and_infer_types()
    return 2


def _has_weight(library: Any, product: Any) -> bool:
    """Whether it multiplies floats by a weight, and does not write bf16 yet."""
    read, written = product.input_value(0).get_element_type(), product.output(0).get_element_type()
    return bool(_chain(product)[-1].get_type_name() == "Constant" and read.is_real() and written != library.Type.bf16)


def _chain(product: Any) -> list[Any]:
    """What a product's second input is made by, up to what changes its values: a constant, if it is a weight."""
    chain = [product.input_value(1).get_node()]
    while chain[-1].get_type_name() in _BETWEEN:
        chain.append(chain[-1].input_value(0).get_node())
    return chain


def _narrow_inputs(library: Any, product: Any, source: Any) -> None:
    """Give a product its first input ``source`` and its weight in bf16; its output becomes bf16."""
    kind, convert = library.Type.bf16, library.opset13.convert
    *chain, constant = _chain(product)
    weight = constant.output(0) if constant.get_element_type() == kind else convert(constant, "bf16").output(0)
    if any(len(node.output(0).get_target_inputs()) > 1 for node in chain):
        weight = convert(product.input_value(1), "bf16").output(0)  # others read it as it was
    else:
        for node in reversed(chain):
            if node.get_type_name() != "Convert":
                node.input(0).replace_source_output(weight)
                node.validate_and_infer_types()
                weight = node.output(0)
    narrow = source if source.get_element_type() == kind else convert(source, "bf16").output(0)
    product.input(0).replace_source_output(narrow)
    product.input(1).replace_source_output(weight)
    product.validate_and_infer_types()


def _narrow_attention(library: Any, attention: Any) -> bool:
    """Make an attention over cached keys and values read and write bf16, caches included.

    Left to itself the plug-in widens the whole cache at every step, and narrows it again to copy its heads.
    """
    chains = [to_cache(attention.input_value(index).get_node()) for index in (1, 2)]
    stored, kind, convert = attention.output(0).get_element_type(), library.Type.bf16, library.opset13.convert
    if not all(chains) or stored == kind:
        return False
    inside = {attention.get_name(), *(node.get_name() for chain in chains for node in chain)}
    for chain in chains:
        for node in chain:
            for reader in node.output(0).get_target_inputs():
                if reader.get_node().get_name() not in inside and reader.get_node().get_type_name() not in _TYPELESS:
                    reader.replace_source_output(convert(node, stored).output(0))
        for port in chain[-1].inputs():
            before = port.get_source_output().get_node()
            if before.get_type_name() == "Parameter":
                before.set_element_type(kind)
            else:
                port.replace_source_output(convert(port.get_source_output(), kind).output(0))
    readers = list(attention.output(0).get_target_inputs())
    for index, port in enumerate(attention.inputs()):
        if index not in (1, 2) and port.get_element_type() == stored:
            port.replace_source_output(convert(port.get_source_output(), kind).output(0))
    wide = convert(attention, stored).output(0)
    for reader in readers:
        reader.replace_source_output(wide)
    return True


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
