"""A step's attention over a cache's rows as they lie and over its newest ones, as ONNX nodes in place of Attention.

ONNX Runtime's Attention (1.31) writes all rows of a cache anew at each step, by one thread where query heads share a
cached head, and lays the keys out again for each query head. Here a cache input becomes two, the rows that stand and
the newest ones (``NEWEST``), and the graph gives back the newest ones with the call's behind them. Query heads that
share a cached head become its rows: two products over either part, with one softmax over both. The same on OpenVINO:
``runtime/openvino/tails.py``.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from luvc_export.bundle import onnx_fields as onnx
from luvc_export.bundle import onnx_wire as wire
from luvc_export.bundle.onnx_wire import Message, encoded
from luvc_export.core.operators import CONTRIB_DOMAIN
from luvc_export.runtime.host.cache import NEWEST
from luvc_export.runtime.ort_graphs.model_fields import closed, opened
from luvc_export.runtime.ort_graphs.nodes import FIELD_FLOAT, integer, integers, node_bytes, real

#: In front of the names of what is added.
_OURS = "luvc.steps"
_FLOAT, _INT64, _BOOL = 1, 7, 9
#: Axis of a cache [B, heads, rows, width] along which rows are added.
_ROWS = 2
_LEAST = np.float32(np.finfo(np.float32).min)


@dataclass(frozen=True)
class _Attention:
    """An Attention over caches that are inputs: names of what it takes and gives, sizes and the scale of its scores."""

    queries: str
    fresh: tuple[str, str]
    mask: str
    pasts: tuple[str, str]
    output: str
    presents: tuple[str, str]
    kv_heads: int
    shared: int
    widths: tuple[int, int]
    scale: float


@dataclass
class _Values:
    """Types and shapes of a graph's inputs, outputs and what is between; sizes that are not fixed are names."""

    known: dict[str, tuple[int, tuple[int | str, ...]]] = field(default_factory=dict)

    def add(self, value: Message) -> None:
        inner = value
        for number in onnx.VALUE_SHAPE[:2]:
            inner = wire.part(inner[number][0]) if number in inner else {}
        sizes = wire.part(inner[2][0]) if 2 in inner else {}
        dims = tuple(wire.text(dim, 2) or wire.number(dim, 1) for dim in wire.parts(sizes, onnx.SHAPE_DIM))
        self.known[wire.text(value, onnx.VALUE_NAME)] = wire.number(inner, 1), dims

    def fits(self, name: str, kind: int, rank: int) -> tuple[int | str, ...] | None:
        """The shape of a value of this type and rank; None where it is of another, or not known."""
        known, dims = self.known.get(name, (0, ()))
        return dims if known == kind and len(dims) == rank else None


def in_two_parts(data: bytes) -> tuple[bytes, frozenset[str]]:
    """A decoder for steps alone, and the names of the inputs that were added, those of newest rows.

    An Attention is left as it is, with its caches, where these are no inputs of the graph or are read by others, where
    its mask is not one for all heads, or where it is any other than scale, mask and softmax in fp32.

    Args:
        data: The model, walked (``graph_rules``).

    Raises:
        ValueError: It is no ONNX graph.
        IndexError: It ends early.
    """
    model, items = opened(data)
    values = _Values()
    for one in items:
        if one.number in onnx.GRAPH_VALUES:
            values.add(wire.part(one.value))
    inputs, outputs = (
        {wire.text(wire.part(one.value), onnx.VALUE_NAME) for one in items if one.number == number}
        for number in (onnx.GRAPH_INPUT, onnx.GRAPH_OUTPUT)
    )
    nodes = [wire.part(one.value) for one in items if one.number == onnx.GRAPH_NODE]
    readers = Counter(name for node in nodes for name in wire.texts(node, onnx.NODE_INPUT))
    sized = Counter(name for node in nodes if _is_shape(node) for name in wire.texts(node, onnx.NODE_INPUT))
    chosen: dict[int, _Attention] = {}
    for at, node in enumerate(nodes):
        attention = _attention(node, values)
        if attention is None or not (inputs.issuperset(attention.pasts) and outputs.issuperset(attention.presents)):
            continue
        alone = all(readers[name] - sized[name] == 1 for name in attention.pasts)
        if alone and not any(readers[name] for name in attention.presents):
            chosen[at] = attention
    if not chosen:
        return data, frozenset()
    writer = _Writer()
    pasts = {name: past for one in chosen.values() for name, past in zip(one.presents, one.pasts, strict=True)}
    parts: list[bytes] = []
    at = -1
    for one in items:
        name = wire.text(wire.part(one.value), onnx.VALUE_NAME) if one.number in onnx.GRAPH_VALUES else ""
        if one.number == onnx.GRAPH_NODE:
            at += 1
            if at in chosen:
                parts += (encoded(onnx.GRAPH_NODE, node) for node in writer.attention(chosen[at]))
            elif _is_shape(nodes[at]) and wire.texts(nodes[at], onnx.NODE_INPUT)[0] in pasts.values():
                parts += (encoded(onnx.GRAPH_NODE, node) for node in writer.both_sizes(nodes[at]))
            else:
                parts.append(bytes(one.raw))
        elif one.number == onnx.GRAPH_OUTPUT and name in pasts:
            parts.append(encoded(one.number, _cache(name, values.known[pasts[name]][1], f"{pasts[name]}.after")))
        else:
            parts.append(bytes(one.raw))
    added = {past + NEWEST: past for past in pasts.values()}
    parts += (
        encoded(onnx.GRAPH_INPUT, _cache(name, values.known[past][1], f"{past}.before")) for name, past in added.items()
    )
    parts += (encoded(onnx.GRAPH_INITIALIZER, tensor) for tensor in writer.constants.values())
    changed = closed(model, parts)
    domains = {wire.text(wire.part(one.value), onnx.OPSET_DOMAIN) for one in model if one.number == onnx.MODEL_OPSET}
    if CONTRIB_DOMAIN not in domains:
        opset = encoded(onnx.OPSET_DOMAIN, CONTRIB_DOMAIN) + encoded(onnx.OPSET_VERSION, 1)
        changed += encoded(onnx.MODEL_OPSET, opset)
    return changed, frozenset(added)


def _is_shape(node: Message) -> bool:
    return wire.text(node, onnx.NODE_OP) == "Shape" and not wire.text(node, onnx.NODE_DOMAIN)


def _attention(node: Message, values: _Values) -> _Attention | None:
    """An Attention that can be written in two parts; None for any other node."""
    if wire.text(node, onnx.NODE_OP) != "Attention" or wire.text(node, onnx.NODE_DOMAIN):
        return None
    takes, gives = (wire.texts(node, number) for number in (onnx.NODE_INPUT, onnx.NODE_OUTPUT))
    facts = _facts(node)
    plain = not any(facts.get(name) for name in ("is_causal", "softcap", "qk_matmul_output_mode"))
    if not plain or "softmax_precision" in facts or len(takes) != 6 or len(gives) != 3 or not all((*takes, *gives)):
        return None
    queries, keys, rows, mask, *pasts = takes
    heads, kv_heads = (int(facts.get(name, 0)) for name in ("q_num_heads", "kv_num_heads"))
    shapes = [values.fits(name, _FLOAT, 4) for name in pasts]
    seen = values.fits(mask, _BOOL, 4)
    is_float = all(values.fits(name, _FLOAT, 3) is not None for name in (queries, keys, rows))
    if not (heads and kv_heads) or heads % kv_heads or seen is None or seen[1] != 1 or not is_float:
        return None
    sizes: list[int] = []
    for shape in shapes:
        if shape is None or shape[1] != kv_heads or not isinstance(shape[3], int):
            return None
        sizes.append(shape[3])
    scale = float(facts.get("scale", sizes[0] ** -0.5))
    ends = (pasts[0], pasts[1]), gives[0], (gives[1], gives[2])
    return _Attention(queries, (keys, rows), mask, *ends, kv_heads, heads // kv_heads, (sizes[0], sizes[1]), scale)


def _facts(node: Message) -> dict[str, float]:
    """Attributes of a node that are one number, by name."""
    facts: dict[str, float] = {}
    for attribute in wire.parts(node, onnx.NODE_ATTRIBUTE):
        name, value = wire.text(attribute, onnx.ATTRIBUTE_NAME), wire.single(attribute, FIELD_FLOAT)
        if isinstance(value, memoryview) and len(value) == 4:
            facts[name] = float(struct.unpack("<f", value)[0])
        else:
            facts[name] = wire.number(attribute, onnx.ATTRIBUTE_INT)
    return facts


class _Writer:
    """Writes nodes, and the constants that they read."""

    def __init__(self) -> None:
        self.constants: dict[str, bytes] = {}
        self._masks: dict[tuple[str, int], str] = {}

    def attention(self, one: _Attention) -> Iterator[bytes]:
        """Nodes in the place of an Attention: queries [B, L, H * D], caches [B, Hkv, S, D]."""
        front, (width, wide) = f"{_OURS}/{one.output}", one.widths
        heads, shared = one.kv_heads, one.shared

        def name(what: str) -> str:
            return f"{front}/{what}"

        mask = self._masks.get((one.mask, shared))
        if mask is None:
            mask = self._masks[one.mask, shared] = f"{_OURS}/{one.mask}/{shared}"
            yield node_bytes("Where", [one.mask, self._number(0), self._number(_LEAST)], [f"{mask}.one"])
            yield node_bytes("Tile", [f"{mask}.one", self._whole(1, 1, shared, 1)], [mask])
        yield node_bytes("Reshape", [one.queries, self._whole(0, 0, heads, shared, width)], [name("q.heads")])
        yield node_bytes("Transpose", [name("q.heads")], [name("q.turned")], integers("perm", 0, 2, 3, 1, 4))
        yield node_bytes("Reshape", [name("q.turned"), self._whole(0, heads, -1, width)], [name("q")])
        for fresh, past, present, size in zip(one.fresh, one.pasts, one.presents, one.widths, strict=True):
            yield node_bytes("Reshape", [fresh, self._whole(0, 0, heads, size)], [name(f"{past}.heads")])
            yield node_bytes("Transpose", [name(f"{past}.heads")], [name(past)], integers("perm", 0, 2, 1, 3))
            yield node_bytes("Concat", [past + NEWEST, name(past)], [present], integer("axis", _ROWS))
        (keys, rows), (new_keys, new_rows) = one.pasts, one.presents
        facts = integer("transB", 1) + real("alpha", one.scale)
        along, last = integer("start", _ROWS) + integer("end", _ROWS + 1), integer("axis", 3)
        for part, source in (("standing", keys), ("newest", new_keys)):
            yield node_bytes("FusedMatMul", [name("q"), source], [name(f"scores.{part}")], facts, CONTRIB_DOMAIN)
            yield node_bytes("Shape", [source], [name(f"rows.{part}")], along)
        yield node_bytes("Concat", [name("scores.standing"), name("scores.newest")], [name("scores")], last)
        yield node_bytes("Add", [name("scores"), mask], [name("masked")])
        yield node_bytes("Softmax", [name("masked")], [name("shares")], last)
        yield node_bytes("Concat", [name("rows.standing"), name("rows.newest")], [name("rows")], integer("axis", 0))
        parts = [name("shares.standing"), name("shares.newest")]
        yield node_bytes("Split", [name("shares"), name("rows")], parts, last)
        for shares, source in zip(parts, (rows, new_rows), strict=True):
            yield node_bytes("MatMul", [shares, source], [f"{shares}.sum"])
        yield node_bytes("Add", [f"{shares}.sum" for shares in parts], [name("sum")])
        yield node_bytes("Reshape", [name("sum"), self._whole(0, heads, shared, -1, wide)], [name("out.heads")])
        yield node_bytes("Transpose", [name("out.heads")], [name("out.turned")], integers("perm", 0, 3, 1, 2, 4))
        yield node_bytes("Reshape", [name("out.turned"), self._whole(0, 0, heads * shared * wide)], [one.output])

    def both_sizes(self, shape: Message) -> Iterator[bytes]:
        """A Shape of a cache, told of both parts."""
        (past,), (output,) = wire.texts(shape, onnx.NODE_INPUT), wire.texts(shape, onnx.NODE_OUTPUT)
        kept = b"".join(encoded(onnx.NODE_ATTRIBUTE, wire.contents(one)) for one in shape.get(onnx.NODE_ATTRIBUTE, ()))
        facts, rank = _facts(shape), 4
        begin, end = (int(facts.get(name, other)) for name, other in (("start", 0), ("end", rank)))
        along = np.eye(rank, dtype=np.int64)[_ROWS][slice(begin, end)]
        names = [f"{_OURS}/{output}/{part}" for part in ("standing", "newest", "more")]
        yield node_bytes("Shape", [past], [names[0]], kept)
        yield node_bytes("Shape", [past + NEWEST], [names[1]], kept)
        yield node_bytes("Mul", [names[1], self._whole(*along.tolist())], [names[2]])
        yield node_bytes("Add", [names[0], names[2]], [output])

    def _whole(self, *numbers: int) -> str:
        return self._constant(np.array(numbers, np.int64), _INT64)

    def _number(self, number: float | np.float32) -> str:
        return self._constant(np.array(number, np.float32), _FLOAT)

    def _constant(self, array: np.ndarray, kind: int) -> str:
        name = f"{_OURS}/{array.dtype}{array.tolist()}"
        dims = b"".join(encoded(onnx.TENSOR_DIMS, size) for size in array.shape)
        rest = encoded(onnx.TENSOR_NAME, name) + encoded(onnx.TENSOR_RAW, array.tobytes())
        self.constants[name] = dims + encoded(onnx.TENSOR_TYPE, kind) + rest
        return name


def _cache(name: str, past: Mapping[int, int | str] | tuple[int | str, ...], rows: str) -> bytes:
    """ValueInfoProto of a cache in fp32 of as many heads, whose count of rows has a name."""
    sizes = [past[0], past[1], rows, past[3]]
    dims = b"".join(encoded(1, encoded(2, size) if isinstance(size, str) else encoded(1, size)) for size in sizes)
    tensor = encoded(1, _FLOAT) + encoded(2, dims)
    return encoded(onnx.VALUE_NAME, name) + encoded(2, encoded(1, tensor))
