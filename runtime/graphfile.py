"""The names of a graph's outside weights, read from the file's wire format: the runtime does not need ``onnx``.

Field numbers are those of onnx.proto (ModelProto.graph 7, GraphProto.initializer 5, TensorProto.name 8,
external_data 13 and data_location 14, StringStringEntryProto.key 1 and value 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from luvc_export.errors import BundleError

_GRAPH, _INITIALIZER, _NAME, _EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 7, 5, 8, 13, 14, 1


def external_weights(path: Path) -> dict[str, str]:
    """Initializers of the graph at ``path`` whose bytes lie elsewhere, with the file the graph names for each.

    Raises:
        BundleError: The file is no ONNX graph.
    """
    found = {}
    try:
        for graph in _messages(memoryview(path.read_bytes()), _GRAPH):
            for tensor in _messages(graph, _INITIALIZER):
                name, location, external = "", "", False
                for field, value in _fields(tensor):
                    if field == _NAME and isinstance(value, memoryview):
                        name = bytes(value).decode()
                    elif field == _DATA_LOCATION:
                        external = value == _EXTERNAL
                    elif field == _EXTERNAL_DATA and isinstance(value, memoryview):
                        entry = {key: bytes(text).decode() for key, text in _fields(value) if not isinstance(text, int)}
                        location = entry.get(2, "") if entry.get(1) == "location" else location
                if external:
                    found[name] = location
    except (ValueError, IndexError) as error:
        raise BundleError("this file is no ONNX graph", where=str(path), got=str(error)) from error
    return found


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for field, value in _fields(data) if field == wanted and isinstance(value, memoryview))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one message: an int for varints, bytes for all else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield field, number
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + length > len(data):
            raise ValueError(f"a field of {length} bytes at byte {at} runs past the end")
        yield field, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than ten bytes at byte {at}")
