"""Whether two bundles' graphs compute the same: node for node, and their weights byte for byte.

A draft model that is cut from the larger one has its encoder, and then need not see the pictures again. Names and
hashes of files say nothing here: two exports lay the same weights at different places.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.folder import Bundle
from luvc_export.bundle.graph_rules import OutsideTensor
from luvc_export.bundle.graphs import CheckedGraph, MappedWeights, read_graph

#: Parts of a model and of its graph that say what is computed; others are names, versions and remarks.
_MODEL = frozenset({onnx.MODEL_OPSET, onnx.MODEL_FUNCTIONS})
_GRAPH = frozenset({onnx.GRAPH_NODE, onnx.GRAPH_INITIALIZER, *onnx.GRAPH_VALUES[:2]})
#: Bytes that are compared at a time: the first difference ends it.
_CHUNK = 2**22


def same_graph(one: Bundle, name: str, other: Bundle, other_name: str) -> bool:
    """Whether graph ``name`` of a bundle gives what ``other_name`` of another gives, whatever it is fed.

    Args:
        one: A bundle.
        name: A graph's file in it.
        other: Another bundle, or the same.
        other_name: A graph's file there.

    Returns:
        True where nodes, constants, inputs and outputs are equal, and every weight outside the graph is too, read and
        compared (a checkpoint's recorded hashes stand for its bytes). False says only that this was not seen.

    Raises:
        BundleError: See ``read_graph``.
    """
    graph, another = read_graph(one, name), read_graph(other, other_name)
    if _computed(graph.data) != _computed(another.data):
        return False
    theirs = {tensor.name: tensor for tensor in another.outside}
    if {tensor.name for tensor in graph.outside} != set(theirs):
        return False
    mapped = MappedWeights()
    pairs = [(tensor, theirs[tensor.name]) for tensor in graph.outside]
    if any((a.kind, a.shape, a.bytes) != (b.kind, b.shape, b.bytes) or a.bytes is None for a, b in pairs):
        return False
    return all(_same_bytes(mapped, one, graph, a, other, another, b) for a, b in pairs)


def _same_bytes(
    mapped: MappedWeights,
    one: Bundle,
    graph: CheckedGraph,
    tensor: OutsideTensor,
    other: Bundle,
    another: CheckedGraph,
    counterpart: OutsideTensor,
) -> bool:
    hashes = _recorded(one, tensor), _recorded(other, counterpart)
    if None not in hashes:
        return hashes[0] == hashes[1]
    return equal_bytes(mapped.stored(graph, tensor), mapped.stored(another, counterpart))


def _recorded(bundle: Bundle, tensor: OutsideTensor) -> str | None:
    """The hash of a weight that lies in a checkpoint, where the bundle has it."""
    weights = bundle.manifest.weights
    place = weights.tensors.get(tensor.name) if weights.mode == "reference" else None
    here = place is not None and (place.file, place.offset) == (tensor.location, tensor.offset)
    return place.sha256 if place is not None and here else None


def equal_bytes(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether two arrays uint8 [n] are equal; no copy of either is made."""
    starts = range(0, max(len(one), len(other)), _CHUNK)
    return len(one) == len(other) and all(
        np.array_equal(one[at : at + _CHUNK], other[at : at + _CHUNK]) for at in starts
    )


def _computed(data: bytes) -> bytes:
    """A hash of what a graph computes, but for where its outside weights lie."""
    digest = hashlib.sha256()

    def add(number: int, raw: bytes | memoryview) -> None:
        digest.update(f"{number} {len(raw)} ".encode())
        digest.update(raw)

    for field in wire.fields(memoryview(data)):
        if field.number in _MODEL:
            add(field.number, field.raw)
        elif field.number == onnx.MODEL_GRAPH:
            for part in wire.fields(wire.contents(field.value)):
                if part.number == onnx.GRAPH_INITIALIZER:
                    tensor = wire.fields(wire.contents(part.value))
                    add(part.number, b"".join(one.raw for one in tensor if one.number != onnx.TENSOR_EXTERNAL))
                elif part.number in _GRAPH:
                    add(part.number, part.raw)
    return digest.digest()
