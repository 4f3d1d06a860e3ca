"""What a graph file says of its outside weights, read from its wire format: the runtime does not need ``onnx``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from luvc_export.core.element_types import BY_ONNX, BY_PRECISION
from luvc_export.errors import BundleError

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _ATTRIBUTE_INT = 1, 2, 4, 5, 3
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 13, 14

_HALF = tuple(BY_PRECISION[name].onnx for name in ("fp16", "bf16"))

_Message = dict[int, list[int | memoryview]]


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


def outside_weights(path: Path) -> dict[str, OutsideWeight]:
    """Weights that the graph at ``path`` takes from other files, by name.

    Raises:
        BundleError: The file is no ONNX graph.
    """
    try:
        found = {}
        for part in _decode(memoryview(path.read_bytes())).get(_MODEL_GRAPH, []):
            graph = _message(part)
            folds = _folds(graph)
            for tensor in map(_message, graph.get(_GRAPH_INITIALIZER, [])):
                if tensor.get(_TENSOR_LOCATION) != [1]:
                    continue
                entries = [_message(entry) for entry in tensor.get(_TENSOR_EXTERNAL, [])]
                pairs = {_text(entry, 1): _text(entry, 2) for entry in entries}
                count = math.prod(_numbers(tensor.get(_TENSOR_DIMS, [])))
                kind = _numbers(tensor.get(_TENSOR_TYPE, []))[0]
                name = _text(tensor, _TENSOR_NAME)
                stored = count * _itemsize(kind)
                found[name] = OutsideWeight(pairs.get("location", ""), stored, count * _cpu_itemsize(name, kind, folds))
        return found
    except (ValueError, IndexError) as error:
        raise BundleError("this file is no ONNX graph", where=str(path), got=str(error)) from error


def _folds(graph: _Message) -> dict[str, tuple[str, int | None]]:
    """Casts and Transposes by what they read: (their output, the type cast to)."""
    folds: dict[str, tuple[str, int | None]] = {}
    for node in map(_message, graph.get(_GRAPH_NODE, [])):
        kind = _text(node, _NODE_OP)
        if kind in ("Cast", "Transpose"):
            attributes = [_message(item) for item in node.get(_NODE_ATTRIBUTE, [])]
            to = _numbers(attributes[0].get(_ATTRIBUTE_INT, []))[0] if kind == "Cast" else None
            folds[_text(node, _NODE_INPUT)] = (_text(node, _NODE_OUTPUT), to)
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


def _message(value: int | memoryview) -> _Message:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return _decode(value)


def _text(message: _Message, field: int) -> str:
    value = message.get(field, [memoryview(b"")])[0]
    if isinstance(value, int):
        raise ValueError("a number where a text should be")
    return bytes(value).decode()


def _numbers(values: list[int | memoryview]) -> list[int]:
    """Repeated integers, packed or not."""
    numbers = []
    for value in values:
        at = 0
        if isinstance(value, int):
            numbers.append(value)
            continue
        while at < len(value):
            number, at = _varint(value, at)
            numbers.append(number)
    return numbers


def _decode(data: memoryview) -> _Message:
    """Fields of one message: ints for varints, bytes for all else."""
    message: _Message = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(data, at)
            message.setdefault(key >> 3, []).append(number)
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + length > len(data):
            raise ValueError(f"a field of {length} bytes at byte {at} runs past the end")
        message.setdefault(key >> 3, []).append(data[at : at + length])
        at += length
    return message


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than ten bytes at byte {at}")


def _itemsize(kind: int) -> int:
    """Bytes of an element; types that are not listed take no part in predictions."""
    return BY_ONNX[kind].itemsize if kind in BY_ONNX else 0
