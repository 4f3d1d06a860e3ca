"""Caches in 8 bits: a decoder that takes and gives back codes of keys and values in place of floats.

A key's channel has one scale, a constant from data: channels of keys differ by orders of magnitude (Qwen2's biases).
Rotation mixes channel i of the turned ones with i + turned / 2 alone, so those two share the scale of their largest
radius, which no position exceeds; channels behind the turned ones (Qwen3.5 turns a quarter of a head) each have their
own. A value's scale is its row's largest magnitude over 127, one for each token and head, and lies beside the
codes. The split is KIVI's (arXiv 2402.02750); constant scales of keys, and those of pairs, are ours. Scales of keys
never touch a cache: attention compares queries times the scales with codes as they are.

What a call brings enters its attention as it is and is rounded where it is written. So a prompt's logits, and what its
prunes keep, are those of the plan before; what later calls see of it are codes. QuantizeLinear and DequantizeLinear
have a scale of 1: ONNX has no scales along two axes. Attention keeps its presents, though nothing reads them: with what
is past and without them ONNX Runtime 1.31 ends with an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from luvc_export.core import graph_io
from luvc_export.core.shapes import VALUE_SCALE, DecoderShape
from luvc_export.errors import CheckFailed

#: Codes are -127 to 127.
LARGEST = 127
#: How much larger than those of the data keys may be before they are cut off. Measured on the bundled model with scales
#: of 128 cases, worst layer of 40 others: at 1.0 the error is 1.9 % and 0.03 % of the codes are cut off, at 1.25 it is
#: 1.3 % and none is.
HEADROOM = 1.25
#: Scale of a row of zeros: the smallest normal number of FP16, so that nothing is divided by 0.
_LEAST = 2.0**-14
_FLOATS: dict[ir.DataType, Any] = {
    ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16, ir.DataType.BFLOAT16: ml_dtypes.bfloat16,
}  # fmt: skip
_PARTS = ("key", "value")
#: What stands between a rotation and a cache: operators that move or convert numbers.
_LAYOUT = ("Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")

#: What makes channels or sizes anew: a rotation behind it is not of these keys.
_NEW = ("Attention", "Gemm", "MatMul", "MatMulNBits", "Shape")


def turned_channels(graph: ir.Graph, past: str) -> int:
    """Return how many channels of a key head rotation turns, the first ones; 0 where its keys are not rotated.

    Args:
        graph: Of a decoder; see ``store_codes``.
        past: Its input with the keys of a layer.

    Raises:
        CheckFailed: They are rotated by something whose pairs are not known here, or what stands between a rotation and
            the cache could change which channels are a pair.
    """
    between: list[str] = []
    value = _join(next(value for value in graph.inputs if value.name == past)).inputs[1]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "RotaryEmbedding" and not node.domain:
            cosines = node.inputs[1]
            width = cosines.shape[-1] if cosines is not None and cosines.shape is not None else None
            if not isinstance(width, int) or node.attributes.get_int("interleaved", 0) == 1:
                raise CheckFailed(
                    "keys of a layer are turned in pairs that are not known",
                    where=past,
                    got="interleaved channels" if isinstance(width, int) else "a table of cosines of no fixed width",
                    expected="halves of a fixed number of channels",
                    fix="leave its caches in the precision of its graphs",
                )
            if between:
                raise CheckFailed(
                    "what stands between a rotation of keys and their cache is not known",
                    where=past,
                    got=", ".join(between),
                    expected=", ".join(_LAYOUT),
                    fix="leave its caches in the precision of its graphs",
                )
            return 2 * width
        if node.domain or node.op_type not in _LAYOUT:
            between.append(node.op_type)
        value = _rotated(node)
    return 0


def _rotated(node: ir.Node) -> ir.Value | None:
    """The input of ``node`` that is computed from a rotation; None where there is none."""
    seen: set[ir.Value] = set()
    for first in node.inputs:
        behind = [first]
        while behind:
            value = behind.pop()
            if value is None or value in seen:
                continue
            seen.add(value)
            before = value.producer()
            if before is None or before.op_type in _NEW:
                continue
            if before.op_type == "RotaryEmbedding" and not before.domain:
                return first
            behind += before.inputs
    return None


def magnitudes(keys: NDArray[np.float32], turned: int) -> NDArray[np.float32]:
    """Largest magnitudes [Hkv, Dh] of keys [B, Hkv, S, Dh] whose first ``turned`` channels rotation mixes in pairs.

    Both channels of a pair get its largest radius.
    """
    first, second = keys[..., : turned // 2], keys[..., turned // 2 : turned]
    radii = np.hypot(first, second)
    sizes = np.concatenate([radii, radii, np.abs(keys[..., turned:])], -1)
    return np.asarray(sizes.max(axis=(0, 2), initial=0), np.float32)


def scales_of(largest: NDArray[np.float32]) -> NDArray[np.float32]:
    """What codes of keys are multiplied by, [Hkv, Dh], from their ``magnitudes`` [Hkv, Dh].

    A channel that never is anything gets 1.
    """
    return np.asarray(np.where(largest > 0, HEADROOM * largest, LARGEST) / LARGEST, np.float32)


def store_codes(graph: ir.Graph, shape: DecoderShape, scales: Mapping[int, NDArray[np.float32]]) -> None:
    """Rewrite a decoder in place.

    Args:
        graph: Of a bundle: its attention takes caches itself, or reads what joins them to new rows.
        shape: The model's.
        scales: Of each layer that has keys and values, float32 [Hkv, Dh].

    Raises:
        CheckFailed: A cache is read by something else, or is of another type.
    """
    for layer, own in scales.items():
        _Layer(graph, layer, shape.heads // len(own), own).store()


class _Layer:
    """The caches of one layer, each of whose key heads ``shared`` query heads read."""

    def __init__(self, graph: ir.Graph, layer: int, shared: int, scales: NDArray[np.float32]) -> None:
        self.graph, self.layer, self.shared, self.scales = graph, layer, shared, scales
        self.heads, self.size = scales.shape
        inputs, outputs = ({value.name: value for value in side} for side in (graph.inputs, graph.outputs))
        self.past = {part: inputs[f"past_key_values.{layer}.{part}"] for part in _PARTS}
        self.present = {part: outputs[f"present.{layer}.{part}"] for part in _PARTS}
        kind = self.past["key"].dtype
        if kind not in _FLOATS:
            raise CheckFailed("caches of this type are not stored in codes", where=self.past["key"].name, got=str(kind))
        self.kind: ir.DataType = kind
        self.one, self.zero = self._constant("one", 1.0), self._constant("zero", np.zeros((), np.int8))

    def store(self) -> None:
        """Change inputs and outputs, and what stands between them."""
        joins = {part: _join(self.past[part]) for part in _PARTS}
        first = joins["key"]
        inside, packed = first.op_type == "Attention", "kv_num_heads" in first.attributes
        places = {"key": (4, 1), "value": (5, 2)} if inside else dict.fromkeys(_PARTS, (0, 1))
        scale = ir.Value(name=f"past_states.{self.layer}.{VALUE_SCALE}", type=ir.TensorType(self.kind))
        scale.shape = _one_wide(self.past["value"])
        self.graph.inputs.append(scale)
        rows: dict[str, ir.Value] = {}
        for part, join in joins.items():
            past_at, new_at = places[part]
            past, new = self.past[part], join.inputs[new_at]
            assert new is not None
            past.type = ir.TensorType(ir.DataType.INT8)
            wide = self._node("DequantizeLinear", [past, self.one, self.zero], f"past_{part}", join)
            if part == "key":
                new = self._node(
                    "Div", [new, self._scales(graph_io.key_scales_name(self.layer), 1, packed, join)], "new_key", join
                )
                join.replace_input_with(new_at, new)
            else:
                wide = self._node("Mul", [wide, scale], "past_value_scaled", join)
            join.replace_input_with(past_at, wide)
            rows[part] = self._apart(new, part, join) if packed else new
        joined = first.outputs[1 if inside else 0]
        self._scale_queries(joined, [first] if inside else [])
        self._give(rows, scale)

    def _scale_queries(self, keys: ir.Value, first: list[ir.Node]) -> None:
        """Multiply the queries of every attention over these keys, which are divided by their scales."""
        readers = [node for node, _ in keys.uses() if node.op_type != "Shape"]
        if other := [node.op_type for node in readers if node.op_type != "Attention"]:
            raise CheckFailed("a cache has other readers", where=keys.name, got=", ".join(other))
        for number, attention in enumerate([*first, *readers]):
            name = f"query_scales.{self.layer}" + (f".{number}" if number else "")
            scales = self._scales(name, self.shared, "q_num_heads" in attention.attributes, attention)
            scaled = self._node("Mul", [attention.inputs[0], scales], f"query.{number}", attention)
            attention.replace_input_with(0, scaled)

    def _give(self, rows: Mapping[str, ir.Value], past_scale: ir.Value) -> None:
        """Make codes of new rows, behind those that are past, the graph's outputs."""
        sizes = self._node("Abs", [rows["value"]], "value_sizes")
        axis = self._constant("axis", np.array([3]))
        largest = self._node("ReduceMax", [sizes, axis], "value_largest", attributes={"keepdims": 1})
        share = self._node("Mul", [largest, self._constant("share", 1 / LARGEST)], "value_share")
        scale = self._node("Max", [share, self._constant("least", _LEAST)], "value_scale")
        divided = {"key": rows["key"], "value": self._node("Div", [rows["value"], scale], "value_divided")}
        for part, values in divided.items():
            codes = self._node("QuantizeLinear", [values, self.one, self.zero], f"{part}_codes")
            old, out = self.present[part], self._node("Concat", [self.past[part], codes], part, attributes={"axis": 2})
            out.type, out.shape = self.past[part].type, old.shape
            self.graph.outputs[[output is old for output in self.graph.outputs].index(True)] = out
            old.name, out.name = f"{old.name}.floats", old.name
        both = self._node("Concat", [past_scale, scale], "scale", attributes={"axis": 2})
        both.name, both.type, both.shape = f"present_states.{self.layer}.{VALUE_SCALE}", past_scale.type, _one_wide(old)
        self.graph.outputs.append(both)

    def _apart(self, rows: ir.Value, part: str, before: ir.Node) -> ir.Value:
        """[B, S, Hkv * Dh] -> [B, Hkv, S, Dh]."""
        shape = self._constant(f"{part}_shape", np.array([0, 0, self.heads, self.size]))
        split = self._node("Reshape", [rows, shape], f"{part}_split", before)
        return self._node("Transpose", [split], f"{part}_heads", before, {"perm": [0, 2, 1, 3]})

    def _scales(self, name: str, copies: int, packed: bool, before: ir.Node) -> ir.Value:
        """Scales as a factor of rows whose heads are packed, or stand apart, each head ``copies`` times."""
        array = np.repeat(self.scales, copies, 0)
        shaped = array.reshape(-1) if packed else array[None, :, None, :]
        constant = self._named(name, shaped)
        if self.kind == ir.DataType.FLOAT:
            return constant
        return self._node("Cast", [constant], name, before, {"to": int(self.kind)})

    def _constant(self, name: str, values: float | NDArray[Any]) -> ir.Value:
        array = np.array(values, _FLOATS[self.kind]) if isinstance(values, float) else values
        return self._named(f"codes.{self.layer}.{name}", array)

    def _named(self, name: str, array: NDArray[Any]) -> ir.Value:
        value = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
        self.graph.register_initializer(value)
        return value

    def _node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        before: ir.Node | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes=attributes, name=f"codes.{self.layer}.{name}.node")
        node.outputs[0].name = f"codes.{self.layer}.{name}.out"
        if before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(before, node)
        return node.outputs[0]


def _join(past: ir.Value) -> ir.Node:
    """The node that joins what is past to new rows, which are its second input."""
    readers = [node for node, _ in past.uses() if node.op_type != "Shape"]
    if len(readers) != 1 or readers[0].op_type not in ("Attention", "Concat"):
        raise CheckFailed(
            "a cache is read by something else than attention",
            where=past.name,
            got=", ".join(node.op_type for node in readers) or "nothing",
        )
    return readers[0]


def _one_wide(tensor: ir.Value) -> ir.Shape:
    """The shape of one number a row."""
    assert tensor.shape is not None
    return ir.Shape([*list(tensor.shape)[:3], 1])
