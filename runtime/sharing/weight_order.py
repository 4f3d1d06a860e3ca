"""Weights in half precision are turned before they are widened: the copy between has two bytes an element, not four.

Graphs say ``Transpose(Cast(weight))``, and ONNX Runtime folds one after the other: 4 bytes an element widened and 4
turned, both held until loading ends. The other way round it is 2 and 4, and the numbers are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.onnx_wire import Message
from luvc_export.runtime.ort_graphs.model_fields import closed, opened

_VALUE_INFO = 13
#: Fields of a node that say what it does to its inputs.
_DOES = (onnx.NODE_OP, onnx.NODE_ATTRIBUTE)


def turned_early(nodes: Iterable[Message], halves: Collection[str], outputs: Collection[str] = ()) -> dict[str, str]:
    """Casts of weights that a Transpose alone reads, which may come first: the Cast's output by the Transpose's.

    Args:
        nodes: Of a graph, in its order.
        halves: Names of the weights in half precision.
        outputs: Names of what the graph gives, which stay as they are.

    Raises:
        ValueError: A node is none.
    """
    half, casts, readers = set(halves), set[str](), Counter[str]()
    turned: dict[str, str] = {}
    for node in nodes:
        inputs, kind = wire.texts(node, onnx.NODE_INPUT), wire.text(node, onnx.NODE_OP)
        readers.update(inputs)
        plain = not wire.text(node, onnx.NODE_DOMAIN)
        if plain and inputs and kind in ("Cast", "Concat", "Transpose"):
            (output,) = wire.texts(node, onnx.NODE_OUTPUT)
            if kind == "Concat" and half.issuperset(inputs):
                half.add(output)
            elif kind == "Cast" and inputs[0] in half:
                casts.add(output)
            elif kind == "Transpose" and inputs[0] in casts:
                turned[output] = inputs[0]
    return {output: cast for output, cast in turned.items() if readers[cast] == 1 and cast not in outputs}


def turned_first(data: bytes, halves: Collection[str]) -> bytes:
    """A model whose weights ``halves`` are turned before they are widened, where nothing else reads them widened.

    Raises:
        ValueError: It is no ONNX graph.
        IndexError: It ends early.
    """
    if not halves:
        return data
    model, parts = opened(data)
    nodes = [wire.part(one.value) for one in parts if one.number == onnx.GRAPH_NODE]
    outputs = {wire.text(wire.part(one.value), onnx.VALUE_NAME) for one in parts if one.number == onnx.GRAPH_OUTPUT}
    turned = turned_early(nodes, halves, outputs)
    if not turned:
        return data
    between = set(turned.values())
    by_output = {output: node for node in nodes for output in wire.texts(node, onnx.NODE_OUTPUT)}
    other = {one: by_output[cast] for one, cast in turned.items()} | {
        cast: by_output[one] for one, cast in turned.items()
    }
    written = []
    for one in parts:
        if one.number == onnx.GRAPH_NODE:
            output = next(iter(wire.texts(wire.part(one.value), onnx.NODE_OUTPUT)), "")
            written.append(_as(one.value, other[output]) if output in other else bytes(one.raw))
        elif one.number != _VALUE_INFO or wire.text(wire.part(one.value), onnx.VALUE_NAME) not in between:
            written.append(bytes(one.raw))
    return closed(model, written)


def _as(node: int | memoryview, other: Message) -> bytes:
    """A node with its own inputs, outputs and name that does what ``other`` does."""
    kept = [bytes(one.raw) for one in wire.fields(wire.contents(node)) if one.number not in _DOES]
    does = [wire.encoded(number, value) for number in _DOES for value in other.get(number, [])]
    return wire.encoded(onnx.GRAPH_NODE, b"".join(kept + does))
