"""What a graph file says of its outside weights, read from its wire format: the runtime does not need ``onnx``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.graphs import CheckedGraph
from luvc_export.bundle.onnx_wire import Message
from luvc_export.core.element_types import BY_ONNX, BY_PRECISION
from luvc_export.errors import BundleError

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _ATTRIBUTE_INT = 1, 2, 4, 5, 3
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 13, 14

_HALF = tuple(BY_PRECISION[name].onnx for name in ("fp16", "bf16"))


@dataclass(frozen=True)
class OutsideWeight:
    """An initializer whose bytes lie elsewhere.

    Args:
        location: File the graph names.
        bytes: Its size as stored.
        cpu_bytes: What ONNX Runtime's CPU provider holds of it at the height of loading. Every Cast and Transpose that
            is folded on the way lives until loading ends, and half precision is widened to fp32 in the end. Measured
            with 12 matrices of 4096 x 4096 in fp16: Cast and Transpose 8.2 bytes an element, Cast alone 4.0,
            Transpose alone 6.0; 4.0 once loaded.
    """

    location: str
    bytes: int
    cpu_bytes: int


def outside_weights(source: Path | bytes, where: str | None = None) -> dict[str, OutsideWeight]:
    """Weights that a graph takes from other files, by name; ``source`` is its file or its bytes.

    Raises:
        BundleError: The file is no ONNX graph.
    """
    try:
        found = {}
        data = source if isinstance(source, bytes) else source.read_bytes()
        for value in wire.decode(memoryview(data)).get(_MODEL_GRAPH, []):
            graph = wire.part(value)
            folds = _folds(wire.parts(graph, _GRAPH_NODE))
            for tensor in wire.parts(graph, _GRAPH_INITIALIZER):
                if tensor.get(_TENSOR_LOCATION) != [1]:
                    continue
                pairs = {wire.text(entry, 1): wire.text(entry, 2) for entry in wire.parts(tensor, _TENSOR_EXTERNAL)}
                count = math.prod(wire.numbers(tensor, _TENSOR_DIMS))
                kind = wire.numbers(tensor, _TENSOR_TYPE)[0]
                name = wire.text(tensor, _TENSOR_NAME)
                stored = count * _itemsize(kind)
                found[name] = OutsideWeight(pairs.get("location", ""), stored, count * _cpu_itemsize(name, kind, folds))
        return found
    except (ValueError, IndexError) as error:
        place = where or ("the graph" if isinstance(source, bytes) else str(source))
        raise BundleError("this file is no ONNX graph", where=place, got=str(error)) from error


def checked_outside_weights(graph: CheckedGraph, where: str) -> dict[str, OutsideWeight]:
    """``outside_weights`` of a graph that was walked: it is not walked again.

    Raises:
        BundleError: A Cast or Transpose in it is none.
    """
    try:
        folds, found = _folds(graph.nodes), {}
    except (ValueError, IndexError) as error:
        raise BundleError("this file is no ONNX graph", where=where, got=str(error)) from error
    for tensor in graph.outside:
        needed = tensor.count * _cpu_itemsize(tensor.name, tensor.kind, folds)
        found[tensor.name] = OutsideWeight(tensor.location, tensor.count * _itemsize(tensor.kind), needed)
    return found


def _folds(nodes: list[Message]) -> dict[str, tuple[str, int | None]]:
    """Casts and Transposes by what they read: (their output, the type cast to)."""
    folds: dict[str, tuple[str, int | None]] = {}
    for node in nodes:
        kind = wire.text(node, _NODE_OP)
        if kind in ("Cast", "Transpose"):
            attributes = wire.parts(node, _NODE_ATTRIBUTE)
            to = wire.numbers(attributes[0], _ATTRIBUTE_INT)[0] if kind == "Cast" else None
            folds[wire.text(node, _NODE_INPUT)] = (wire.text(node, _NODE_OUTPUT), to)
    return folds


def _cpu_itemsize(name: str, kind: int, folds: dict[str, tuple[str, int | None]]) -> int:
    """Bytes an element at the height of loading: see ``OutsideWeight``."""
    size = 0
    for _ in range(4):  # longer chains are not weights
        if name not in folds:
            break
        name, to = folds[name]
        if to != kind:  # a Cast to its own type is removed
            kind = to or kind
            size += _itemsize(kind)
    if kind in _HALF:
        return size + 4
    return size or _itemsize(kind)


def _itemsize(kind: int) -> int:
    """Bytes of an element; types that are not listed take no part in predictions."""
    return BY_ONNX[kind].itemsize if kind in BY_ONNX else 0
