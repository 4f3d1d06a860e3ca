"""Graphs as ONNX Runtime's CPU runs them sooner or in less memory: products of 8 bits in blocks, attention in tiles.

``DynamicQuantizeMatMul`` has one range of activations a call and reads weights [K, N]; ``MatMulNBits`` has one for each
block and reads the same codes and scales, turned and repeated, [N, K] packed for one row. Rows that stick out take
the first's range from all the others, so prompts are always in blocks; for steps of one row, which is faster is a CPU's
matter (``speed_probe.one_row``). A session packs the codes for itself: what they were given in is given back behind it,
and the probe holds that to its results.

Attention holds the products of every patch with every other one for all heads at once: an encoder's over thousands of
patches. MultiHeadAttention, where nothing is masked, goes through them in tiles (FlashAttention, arXiv 2205.14135) and
takes no longer.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.onnx_wire import Field, Message, encoded
from luvc_export.core.operators import CONTRIB_DOMAIN

#: Codes of a block: the first of these that divides a product's inner size.
BLOCKS = (128, 64, 32)
#: Behind a weight's name.
_CODES, _SCALES = ".blocks", ".blocks.scale"
#: The middle of codes, and how precisely activations are rounded: to 8 bits.
_ZERO, _ACCURACY_LEVEL = 128, 4
_FLOAT, _UINT8 = 1, 2
#: Values a runtime is given beside the graph have a place that is never read.
_BESIDE = encoded(onnx.TENSOR_EXTERNAL, encoded(1, "location") + encoded(2, "beside"))


@dataclass
class Blocks:
    """A graph whose products of 8 bits are in blocks, and the arrays that it must be given.

    Args:
        graph: The model.
        arrays: By name of an initializer: codes uint8 [N, K / block, block], scales float32 [N, K / block].
    """

    graph: bytes
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    _maps: list[mmap.mmap] = field(default_factory=list)

    def add_weights(self, library: Any, options: Any) -> None:
        """Give the arrays to a session's options."""
        make = library.OrtValue.ortvalue_from_numpy
        if self.arrays:
            options.add_external_initializers([*self.arrays], [make(array, "cpu") for array in self.arrays.values()])

    def forget(self) -> None:
        """Give back the memory of the codes, which a session has packed; their addresses stay valid."""
        advice: int | None = getattr(mmap, "MADV_DONTNEED", None)
        if advice is not None:
            for mapped in self._maps:
                mapped.madvise(advice)

    def add(self, name: str, weight: NDArray[np.uint8], scale: NDArray[np.float32], block: int) -> None:
        """The codes and scales of a weight [K, N] with one scale a column."""
        inner, columns = weight.shape
        mapped = _own_memory(weight.size)
        codes = np.frombuffer(mapped, np.uint8).reshape(columns, inner // block, block)
        for number in range(inner // block):
            codes[:, number] = weight[number * block : (number + 1) * block].T
        self._maps.append(mapped)
        self.arrays[name + _CODES] = codes
        self.arrays[name + _SCALES] = np.repeat(scale.reshape(-1, 1), inner // block, axis=1)


def _own_memory(size: int) -> mmap.mmap:
    """Memory that is this process's alone: what is shared cannot be given back page by page."""
    flags = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    return mmap.mmap(-1, size, flags=flags) if flags else mmap.mmap(-1, size)


def in_blocks(data: bytes, weight: Callable[[str], NDArray[Any] | None]) -> Blocks:
    """A model with its products of 8 bits in blocks; those with another middle than 128 or odd sizes are left.

    Args:
        data: The model, walked (``graph_rules``).
        weight: Gives what lies outside of it by name; None for what does not.

    Raises:
        ValueError: It is no ONNX graph.
        IndexError: It ends early.
    """
    model, items = opened(data)
    tensors = {
        wire.text(tensor, onnx.TENSOR_NAME): tensor
        for tensor in (wire.part(one.value) for one in items if one.number == onnx.GRAPH_INITIALIZER)
    }
    nodes = [wire.part(one.value) for one in items if one.number == onnx.GRAPH_NODE]
    readers = Counter(name for one in nodes for name in wire.texts(one, onnx.NODE_INPUT))
    blocks, parts, taken, at = Blocks(data), list[bytes](), set[str](), -1

    def array(name: str) -> NDArray[Any] | None:
        return _inside(tensors[name]) if name in tensors and onnx.TENSOR_RAW in tensors[name] else weight(name)

    for one in items:
        at += one.number == onnx.GRAPH_NODE
        written = _product(nodes[at], array, blocks) if one.number == onnx.GRAPH_NODE else None
        if written is not None:
            taken.update(wire.texts(nodes[at], onnx.NODE_INPUT)[1:])
        parts.append(bytes(one.raw) if written is None else encoded(onnx.GRAPH_NODE, written))
    if not blocks.arrays:
        return blocks
    for one in items:
        name = wire.text(wire.part(one.value), onnx.TENSOR_NAME) if one.number == onnx.GRAPH_INITIALIZER else ""
        if name in taken and readers[name] == 1:
            parts.remove(bytes(one.raw))
    parts += (encoded(onnx.GRAPH_INITIALIZER, _outside(name, value)) for name, value in blocks.arrays.items())
    blocks.graph = closed(model, parts)
    return blocks


def _product(one: Message, array: Callable[[str], NDArray[Any] | None], blocks: Blocks) -> bytes | None:
    """A product of 8 bits as one in blocks; None for what is none."""
    kind = wire.text(one, onnx.NODE_OP), wire.text(one, onnx.NODE_DOMAIN)
    inputs = wire.texts(one, onnx.NODE_INPUT)
    if kind != ("DynamicQuantizeMatMul", CONTRIB_DOMAIN) or len(inputs) != 4:
        return None
    activation, name, *_ = inputs
    values = [array(other) for other in inputs[1:]]
    if any(value is None for value in values):
        return None
    weight, scale, zero = (np.asarray(value) for value in values)
    fits = weight.dtype == np.uint8 and weight.ndim == 2 and scale.dtype == np.float32 and zero.tolist() == _ZERO
    block = next((size for size in BLOCKS if weight.ndim and weight.shape[0] % size == 0), 0)
    if not fits or not block or scale.shape != weight.shape[1:]:
        return None
    if name + _CODES not in blocks.arrays:
        blocks.add(name, weight, scale, block)
    facts = {"K": weight.shape[0], "N": weight.shape[1], "bits": 8, "block_size": block}
    attributes = b"".join(integer(fact, value) for fact, value in (*facts.items(), ("accuracy_level", _ACCURACY_LEVEL)))
    takes = [activation, name + _CODES, name + _SCALES]
    return node_bytes("MatMulNBits", takes, wire.texts(one, onnx.NODE_OUTPUT), attributes, CONTRIB_DOMAIN)


def _inside(tensor: Message) -> NDArray[Any] | None:
    kinds = {_FLOAT: np.float32, _UINT8: np.uint8}
    kind = kinds.get(wire.number(tensor, onnx.TENSOR_TYPE))
    if kind is None:
        return None
    raw = wire.contents(wire.single(tensor, onnx.TENSOR_RAW) or memoryview(b""))
    return np.frombuffer(raw, kind).reshape(wire.numbers(tensor, onnx.TENSOR_DIMS))


def _outside(name: str, array: NDArray[Any]) -> bytes:
    """TensorProto of an array that is given beside the graph."""
    dims: Iterable[bytes] = (encoded(onnx.TENSOR_DIMS, size) for size in array.shape)
    kind = encoded(onnx.TENSOR_TYPE, _UINT8 if array.dtype == np.uint8 else _FLOAT)
    return b"".join(dims) + kind + encoded(onnx.TENSOR_NAME, name) + _BESIDE + encoded(onnx.TENSOR_LOCATION, 1)


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
    for number in (kind, tensor):
        value = wire.part(wire.single(value, number) or memoryview(b""))
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
