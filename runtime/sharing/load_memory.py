"""What weights of a graph take on the CPU while ONNX Runtime loads them, and what makes that less.

Weights in half precision are turned before they are widened: the copy between has two bytes an element, not four.
Graphs say ``Transpose(Cast(weight))``, and ONNX Runtime folds one after the other: 4 bytes an element widened and 4
turned, both held until loading ends. The other way round it is 2 and 4, and the numbers are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.onnx_wire import Message
from luvc_export.core.element_types import BY_ONNX, BY_PRECISION
from luvc_export.errors import BundleError
from luvc_export.runtime.ort_graphs.blocks import closed, opened

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


#: ONNX element types of half precision.
HALF = tuple(BY_PRECISION[name].onnx for name in ("fp16", "bf16"))


#: Bytes up to which ONNX Runtime folds untold, since 1.27; what is larger is computed in every call.
_FOLDED = 2**30
_FLOATS = (*HALF, BY_PRECISION["fp32"].onnx)


def fold_settings(outside: Iterable[OutsideTensor]) -> dict[str, str]:
    """Settings of a session that folds as much as the largest weight takes in fp32, such as a head's Cast."""
    largest = 4 * max((one.count for one in outside if one.kind in _FLOATS), default=0)
    return {"optimization.constant_folding_max_output_size_in_bytes": str(largest)} if largest > _FOLDED else {}


def cpu_bytes(outside: Iterable[OutsideTensor], nodes: Iterable[Message], where: str) -> int:
    """What ONNX Runtime's CPU provider holds of outside weights at the height of loading.

    Every Cast and Transpose that is folded on the way lives until loading ends, and half precision is widened to fp32
    in the end. A weight that is cast and then turned is turned first (``turned_early``).

    Raises:
        BundleError: A Cast or Transpose of ``nodes`` is none.
    """
    outside, nodes = [*outside], [*nodes]
    try:
        folds = _folds(nodes)
        early = {*turned_early(nodes, {one.name for one in outside if one.kind in HALF}).values()}
    except (ValueError, IndexError) as error:
        raise BundleError("this file is no ONNX graph", where=where, got=str(error)) from error
    return sum(one.count * _cpu_itemsize(one.name, one.kind, folds, early) for one in outside)


def _folds(nodes: Iterable[Message]) -> dict[str, tuple[str, int | None]]:
    """Casts and Transposes by what they read: (their output, the type cast to)."""
    folds: dict[str, tuple[str, int | None]] = {}
    for node in nodes:
        kind = wire.text(node, onnx.NODE_OP)
        if kind in ("Cast", "Transpose"):
            attributes = wire.parts(node, onnx.NODE_ATTRIBUTE)
            to = wire.numbers(attributes[0], onnx.ATTRIBUTE_INT)[0] if kind == "Cast" else None
            folds[wire.text(node, onnx.NODE_INPUT)] = (wire.text(node, onnx.NODE_OUTPUT), to)
    return folds


def _cpu_itemsize(name: str, kind: int, folds: dict[str, tuple[str, int | None]], early: Collection[str]) -> int:
    """Bytes an element at the height of loading; ``early``: outputs of Casts whose Transpose goes before them."""
    size = 0
    for _ in range(4):  # longer chains are not weights
        if name not in folds:
            break
        name, to = folds[name]
        if name in early:
            name = folds[name][0]
            size += _itemsize(kind)
        if to != kind:  # a Cast to its own type is removed
            kind = to or kind
            size += _itemsize(kind)
    if kind in HALF:
        return size + 4
    return size or _itemsize(kind)


def _itemsize(kind: int) -> int:
    """Bytes of an element; types that are not listed take no part in predictions."""
    return BY_ONNX[kind].itemsize if kind in BY_ONNX else 0
