"""A decoder with slots for adapters, while nobody has asked for one: opened without them.

ONNX Runtime computes a product of rank 0, writes its zeros out in full width and adds them: three passes more over what
each product gives, which a prompt feels. The same on OpenVINO: ``runtime/openvino/bare_slots.py``.
"""

from __future__ import annotations

from collections.abc import Collection

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.onnx_wire import Message, encoded
from luvc_export.runtime.ort_graphs.model_fields import closed, opened

#: Operators between a factor and the sum beside products with factors: the choice of a row's own ranks, and types.
_BETWEEN = frozenset({"Cast", "Greater", "Unsqueeze", "Where"})


def without_slots(data: bytes, names: Collection[str]) -> bytes:
    """A model without what slots add to products, and without the inputs that they are.

    ``data`` itself where one of them is read otherwise than an export has it, up to the sum with its product.

    Args:
        data: The model, walked (``graph_rules``).
        names: Inputs that adapters are (``LoraSlots.inputs``).

    Raises:
        ValueError: It is no ONNX graph.
        IndexError: It ends early.
    """
    model, items = opened(data)
    outputs = {wire.text(wire.part(one.value), onnx.VALUE_NAME) for one in items if one.number == onnx.GRAPH_OUTPUT}
    added, bare = {*names}, dict[str, str]()
    parts: list[bytes] = []
    for one in items:
        if one.number != onnx.GRAPH_NODE:
            named = one.number in onnx.GRAPH_VALUES and wire.text(wire.part(one.value), onnx.VALUE_NAME)
            parts += [] if named in added or named in bare else [bytes(one.raw)]
            continue
        node = wire.part(one.value)
        inputs, results = wire.texts(node, onnx.NODE_INPUT), wire.texts(node, onnx.NODE_OUTPUT)
        ours = [name for name in inputs if name in added]
        if not ours:
            parts.append(_reading(node, bare) if any(name in bare for name in inputs) else bytes(one.raw))
            continue
        op, factors = wire.text(node, onnx.NODE_OP), {*inputs} & {*names}
        if outputs & {*results}:
            return data
        if op == "Add" and len(ours) == 1 and len(inputs) == 2:
            own = next(name for name in inputs if name != ours[0])
            bare[results[0]] = bare.get(own, own)
        elif op in _BETWEEN or (op == "MatMul" and factors):
            added.update(results)
        else:
            return data
    return closed(model, parts)


def _reading(node: Message, bare: dict[str, str]) -> bytes:
    """A node that reads products in the place of their sums."""
    parts = [encoded(onnx.NODE_INPUT, bare.get(name, name)) for name in wire.texts(node, onnx.NODE_INPUT)]
    for number, values in node.items():
        parts += [] if number == onnx.NODE_INPUT else [encoded(number, value) for value in values]
    return encoded(onnx.GRAPH_NODE, b"".join(parts))
