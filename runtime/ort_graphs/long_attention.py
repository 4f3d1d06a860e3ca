"""An encoder's attention over thousands of patches in bounded memory, on ONNX Runtime's CPU.

Its Attention holds the products of every patch with every other one for all heads at once; its own MultiHeadAttention,
where nothing is masked, goes through them in tiles (FlashAttention, arXiv 2205.14135) and takes no longer.
"""

from __future__ import annotations

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.onnx_wire import Message, encoded
from luvc_export.core.operators import CONTRIB_DOMAIN
from luvc_export.runtime.ort_graphs.blocks import closed, integer, node_bytes, opened

#: Patches that see one another from which on: their products in fp32 take 16 MiB a head.
PATCHES = 2048
_FLOAT, _ATTRIBUTE_FLOAT = 1, 2  # a type of tensors; a field of AttributeProto


def tiled(data: bytes) -> bytes:
    """A model in which attention [B, S, heads * D] in fp32 over ``PATCHES`` rows or more, without a mask, is tiled.

    Raises:
        ValueError: It is no ONNX graph.
        IndexError: It ends early.
    """
    model, items = opened(data)
    values = [wire.part(one.value) for one in items if one.number in onnx.GRAPH_VALUES]
    long = {wire.text(value, onnx.VALUE_NAME) for value in values if _long(value)}
    nodes = [_tiled(wire.part(one.value), long) if one.number == onnx.GRAPH_NODE else None for one in items if long]
    if not any(nodes):
        return data
    pairs = zip(items, nodes, strict=True)
    written = closed(model, (bytes(one.raw) if node is None else encoded(onnx.GRAPH_NODE, node) for one, node in pairs))
    opsets = [wire.part(one.value) for one in model if one.number == onnx.MODEL_OPSET]
    if CONTRIB_DOMAIN in [wire.text(opset, onnx.OPSET_DOMAIN) for opset in opsets]:
        return written
    opset = encoded(onnx.OPSET_DOMAIN, CONTRIB_DOMAIN) + encoded(onnx.OPSET_VERSION, 1)
    return written + encoded(onnx.MODEL_OPSET, opset)


def _long(value: Message) -> bool:
    """Whether a value is fp32 [B, S, D] with so many rows."""
    kind, tensor, shape = onnx.VALUE_SHAPE
    for field in (kind, tensor):
        value = wire.part(wire.single(value, field) or memoryview(b""))
    sizes = wire.parts(wire.part(wire.single(value, shape) or memoryview(b"")), onnx.SHAPE_DIM)
    return wire.number(value, 1) == _FLOAT and len(sizes) == 3 and wire.number(sizes[1], 1) >= PATCHES


def _tiled(one: Message, long: set[str]) -> bytes | None:
    """An Attention as MultiHeadAttention; None for what is none, or has heads apart or shared, a mask or a cache."""
    inputs, outputs = wire.texts(one, onnx.NODE_INPUT), wire.texts(one, onnx.NODE_OUTPUT)
    if wire.text(one, onnx.NODE_OP) != "Attention" or wire.text(one, onnx.NODE_DOMAIN):
        return None
    if len(inputs) != 3 or len(outputs) != 1 or not long.issuperset(inputs[:2]):
        return None
    attributes = dict[str, bytes]()
    for value in one.get(onnx.NODE_ATTRIBUTE, ()):
        attributes[wire.text(wire.part(value), onnx.ATTRIBUTE_NAME)] = bytes(wire.contents(value))
    facts = {name: wire.decode(memoryview(raw)) for name, raw in attributes.items()}
    heads, shared, causal = (
        wire.number(facts.get(name, {}), onnx.ATTRIBUTE_INT) for name in ("q_num_heads", "kv_num_heads", "is_causal")
    )
    capped = any(any(wire.contents(value)) for value in facts.get("softcap", {}).get(_ATTRIBUTE_FLOAT, ()))
    if not heads or heads != shared or causal or capped:
        return None
    scale = encoded(onnx.NODE_ATTRIBUTE, attributes["scale"]) if "scale" in attributes else b""
    return node_bytes("MultiHeadAttention", inputs, outputs, integer("num_heads", heads) + scale, CONTRIB_DOMAIN)
