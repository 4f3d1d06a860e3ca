"""Nodes of ONNX on the wire format, as they are put in the place of others."""

from __future__ import annotations

from collections.abc import Sequence

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle.onnx_wire import encoded

#: AttributeProto: its field of a type, and the type of a whole number.
_FIELD_TYPE, _IS_INT = 20, 2


def node_bytes(
    op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: bytes = b"", domain: str = ""
) -> bytes:
    """NodeProto, named as its first output; ``attributes`` are fields of the functions below."""
    parts = [encoded(onnx.NODE_INPUT, name) for name in inputs] + [encoded(onnx.NODE_OUTPUT, name) for name in outputs]
    parts += [encoded(onnx.NODE_NAME, outputs[0]), encoded(onnx.NODE_OP, op), attributes]
    return b"".join([*parts, encoded(onnx.NODE_DOMAIN, domain) if domain else b""])


def integer(name: str, number: int) -> bytes:
    """An attribute that is a whole number, not negative."""
    return _attribute(name, encoded(onnx.ATTRIBUTE_INT, number), _IS_INT)


def _attribute(name: str, value: bytes, kind: int) -> bytes:
    parts = encoded(onnx.ATTRIBUTE_NAME, name) + value + encoded(_FIELD_TYPE, kind)
    return encoded(onnx.NODE_ATTRIBUTE, parts)
