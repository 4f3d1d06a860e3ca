"""A decoder with slots for adapters, while nobody has asked for one: compiled without them.

A product of rank 0 adds nothing and costs little, but it stands between products that the plug-in would fuse: a gated
MLP with slots runs as three products through memory.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def without_slots(model: Any, names: Collection[str]) -> int:
    """Take off what slots add to products, and the inputs that they are; returns how many products had one.

    Args:
        model: ``openvino.Model``, changed.
        names: Inputs that adapters are (``LoraSlots.inputs``). Where one is read otherwise, everything is left.
    """
    inputs = {name: node for node in model.get_parameters() for name in node.output(0).get_names() & {*names}}
    sums = [_sum(node) for name, node in inputs.items() if name.endswith(".b")]
    if not sums or any(one is None for one in sums):
        return 0
    for total, own in (one for one in sums if one is not None):
        total.output(0).replace(own)
    for node in inputs.values():
        model.remove_parameter(node)
    model.validate_nodes_and_infer_types()
    return len(sums)


def _sum(factor: Any) -> tuple[Any, Any] | None:
    """The sum that a slot's second factor ends in, and the product's own output that enters it; None for others."""
    node = factor
    for kind in ("MatMul", "Add"):
        readers = [port.get_node() for port in node.output(0).get_target_inputs()]
        while len(readers) == 1 and readers[0].get_type_name() == "Convert":
            readers = [port.get_node() for port in readers[0].output(0).get_target_inputs()]
        if len(readers) != 1 or readers[0].get_type_name() != kind:
            return None
        node, before = readers[0], node
    own = [value for value in node.input_values() if not _comes_from(value.get_node(), before)]
    return (node, own[0]) if len(own) == 1 else None


def _comes_from(node: Any, product: Any) -> bool:
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_name() == product.get_name())
