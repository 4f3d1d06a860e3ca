"""A model as the fields of its graph, to leave some out and put others in their place."""

from __future__ import annotations

from collections.abc import Iterable

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.onnx_wire import Field


def opened(data: bytes) -> tuple[list[Field], list[Field]]:
    """Fields of a model, and those of its graph.

    Raises:
        ValueError: It is no ONNX graph.
        IndexError: It ends early.
    """
    model = [*wire.fields(memoryview(data))]
    (graph,) = (wire.contents(one.value) for one in model if one.number == onnx.MODEL_GRAPH)
    return model, [*wire.fields(graph)]


def closed(model: Iterable[Field], graph: Iterable[bytes]) -> bytes:
    """The model with these fields as its graph."""
    changed = wire.encoded(onnx.MODEL_GRAPH, b"".join(graph))
    return b"".join(changed if one.number == onnx.MODEL_GRAPH else bytes(one.raw) for one in model)
