"""ONNX body of luvc::GatedDeltaRule (``llm.states.delta_rule``) in standard operators, for any number of rows.

Few rows are one small chunk, more are chunks of ``CHUNK``; whichever it is not has no chunks, and computes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from luvc_export.export.llm.states.delta_rule import CHUNK, DEPTH, DOMAIN, FEW, GROUP, NAME, block_masks

_OPSET = 23
INPUTS = ("query", "key", "value", "decay", "beta", "state", "order")
OUTPUTS = ("out", "after")


class _Body:
    """Nodes of a function, made one after another."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The output of a new node."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"luvc.{NAME}.{name}", **attributes))
        return name

    def constant(self, value: Any) -> str:
        """The name of a tensor."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        key = f"{array.dtype}{array.shape}{array.tobytes()!r}"
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=numpy_helper.from_array(array))
        return self._constants[key]

    def size(self, tensor: str, axis: int) -> str:
        """A size, int64 [1]."""
        return self.op("Shape", tensor, start=axis, end=axis + 1)

    def first(self, tensor: str, count: str, axis: int = 2) -> str:
        """The first ``count`` along an axis."""
        return self.op("Slice", tensor, self.constant([0]), count, self.constant([axis]))

    def last(self, tensor: str) -> str:
        """The last of axis 2, or none of none."""
        return self.op("Slice", tensor, self.constant([-1]), self.constant([2**62]), self.constant([2]))

    def reshape(self, tensor: str, *sizes: str) -> str:
        """To sizes, each int64 [k]; 0 is a size."""
        return self.op("Reshape", tensor, self.op("Concat", *sizes, axis=0), allowzero=1)

    def longer(self, tensor: str, more: str, rank: int) -> str:
        """With ``more`` zeros behind axis 2."""
        before, behind = self.constant([0] * (rank + 2)), self.constant([0] * (rank - 3))
        pads = self.op("Concat", before, more, behind, axis=0) if rank > 3 else self.op("Concat", before, more, axis=0)
        return self.op("Pad", tensor, pads)

    def each(self, tensor: str) -> str:
        """[...] -> [..., 1]."""
        return self.op("Unsqueeze", tensor, self.constant([-1]))

    def turned(self, tensor: str, rank: int) -> str:
        """The last two axes exchanged."""
        return self.op("Transpose", tensor, perm=[*range(rank - 2), rank - 1, rank - 2])


class _Chunks:
    """Chunks of ``side`` rows, ``count`` int64 [1] of them, perhaps none: what is alike in all of them."""

    def __init__(self, body: _Body, side: int, count: str, rows: str) -> None:
        self.body, self.side, self.count, self.rows = body, side, count, rows
        self.whole = body.op("Mul", count, body.constant([side]))
        self.taken = body.op("Min", rows, self.whole)
        self.more = body.op("Sub", self.whole, self.taken)
        query, key, value = (self._split(name, 4) for name in ("query", "key", "value"))
        decay, beta = (self._split(name, 3) for name in ("decay", "beta"))
        faded = body.op("MatMul", decay, body.constant(np.triu(np.ones((side, side), np.float32))))
        behind = body.op("Sub", body.each(faded), body.op("Unsqueeze", faded, body.constant([-2])))
        lower = np.tril(np.ones((side, side), np.float32))
        hidden = body.constant((1 - lower) * np.float32(-1e30))
        between = body.op("Exp", body.op("Add", body.op("Mul", behind, body.constant(lower)), hidden))
        keys = body.op("Mul", key, body.each(beta))
        self.turned_key = body.turned(key, 5)
        alike = body.op("Mul", body.op("MatMul", keys, self.turned_key), between)
        inverse = self._inverse(alike)
        grown = body.each(body.op("Exp", faded))
        self.values = body.op("MatMul", inverse, body.op("Mul", value, body.each(beta)))
        self.read = body.op("MatMul", inverse, body.op("Mul", keys, grown))
        self.query = body.op("Mul", query, grown)
        self.seen = body.op("Mul", body.op("MatMul", query, self.turned_key), between)
        end = body.op("Gather", faded, body.constant([side - 1]), axis=-1)
        self.stays = body.each(body.op("Exp", end))
        left = body.op("Mul", key, body.each(body.op("Exp", body.op("Sub", end, faded))))
        self.left = body.turned(left, 5)

    def _split(self, name: str, rank: int) -> str:
        """Rows [B, H, S, ...] -> [B, H, chunks, side, ...]."""
        body = self.body
        padded = body.longer(body.first(name, self.taken), self.more, rank)
        sizes = [body.size(name, 0), body.size(name, 1), self.count, body.constant([self.side])]
        return body.reshape(padded, *sizes, *([body.size(name, 3)] if rank == 4 else []))

    def _inverse(self, alike: str) -> str:
        body, inverse = self.body, ""
        for mask in block_masks(self.side):
            part = body.op("Mul", alike, body.constant(mask.numpy()))
            if not inverse:
                inverse = body.op("Sub", body.constant(np.eye(self.side, dtype=np.float32)), part)
                continue
            step = body.op("MatMul", body.op("MatMul", inverse, part), inverse)
            inverse = body.op("Sub", inverse, step)
        return inverse

    def finish(self, starts: str) -> tuple[str, str]:
        """From the states [B, H, chunks, Dk, Dv] that chunks begin with: what rows read, and the state at the end.

        The rows are [B, H, rows taken, Dv], the state [B, H, 1, Dk, Dv], or none of either.
        """
        body = self.body
        new = body.op("Sub", self.values, body.op("MatMul", self.read, starts))
        out = body.op("Add", body.op("MatMul", self.query, starts), body.op("MatMul", self.seen, new))
        flat = body.reshape(out, *(body.size("value", axis) for axis in (0, 1)), self.whole, body.size("value", 3))
        faded = body.op("Mul", body.last(starts), body.last(self.stays))
        after = body.op("Add", faded, body.op("MatMul", body.last(self.left), body.last(new)))
        return body.first(flat, self.taken), after


def gated_delta_rule() -> onnx.FunctionProto:
    """The body; inputs and outputs as ``delta_rule.gated_delta_rule`` has them."""
    body = _Body()
    rows = body.size("order", 1)
    is_few = body.op("Cast", body.op("LessOrEqual", rows, body.constant([FEW])), to=onnx.TensorProto.INT64)
    chunks = body.op("Div", body.op("Add", rows, body.constant([CHUNK - 1])), body.constant([CHUNK]))
    many = _Chunks(body, CHUNK, body.op("Mul", chunks, body.op("Sub", body.constant([1]), is_few)), rows)
    few = _Chunks(body, FEW, is_few, rows)
    begin = body.op("Unsqueeze", "state", body.constant([2]))
    factor, added = _steps(body, many)
    parts = [many.finish(_starts(body, factor, added, many.count, begin)), few.finish(body.first(begin, few.count))]
    body.nodes.append(helper.make_node("Concat", [out for out, _ in parts], [OUTPUTS[0]], axis=2))
    ends = body.op("Concat", begin, *(after for _, after in parts), axis=2)
    body.nodes.append(helper.make_node("Squeeze", [body.last(ends), body.constant([2])], [OUTPUTS[1]]))
    opset = [helper.make_opsetid("", _OPSET)]
    return helper.make_function(DOMAIN, NAME, INPUTS, OUTPUTS, body.nodes, opset)


def attach(model: ir.Model) -> None:
    """Give ``model`` the body, if it has the operator."""
    if any(node.domain == DOMAIN and node.op_type == NAME for node in model.graph):
        function = ir.from_proto(gated_delta_rule())
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1


def _steps(body: _Body, chunks: _Chunks) -> tuple[str, str]:
    """What each chunk does to the state: the factor [B, H, chunks, Dk, Dk] and what is added [B, H, chunks, Dk, Dv]."""
    size = body.size("key", 3)
    places = body.op("Range", body.constant(0), body.op("Squeeze", size), body.constant(1))
    same = body.op("Equal", body.each(places), places)
    identity = body.op("Cast", same, to=onnx.TensorProto.FLOAT)
    faded = body.op("Mul", chunks.stays, identity)
    factor = body.op("Sub", faded, body.op("MatMul", chunks.left, chunks.read))
    return factor, body.op("MatMul", chunks.left, chunks.values)


def _starts(body: _Body, factor: str, added: str, count: str, begin: str, depth: int = DEPTH) -> str:
    """The state that each of ``count`` steps begins with, [B, H, count, Dk, Dv], of what they do, ``begin`` first."""
    above = body.constant([GROUP - 1])
    groups = body.op("Div", body.op("Add", count, above), body.constant([GROUP]))
    whole = body.op("Mul", groups, body.constant([GROUP]))
    more = body.op("Sub", whole, count)

    def grouped(tensor: str) -> list[str]:
        """The first, second, ... of every group."""
        sizes = [body.size(tensor, 0), body.size(tensor, 1), groups, body.constant([GROUP]), body.size(tensor, 3)]
        apart = body.reshape(body.longer(tensor, more, 5), *sizes, body.size(tensor, 4))
        return [body.op("Gather", apart, body.constant(place), axis=3) for place in range(GROUP)]

    factors, sums = grouped(factor), grouped(added)
    for place in range(1, GROUP):
        step = factors[place]
        factors[place] = body.op("MatMul", step, factors[place - 1])
        sums[place] = body.op("Add", body.op("MatMul", step, sums[place - 1]), sums[place])
    if depth == 1:
        group_starts = body.first(begin, groups)
    else:
        group_starts = _starts(body, factors[-1], sums[-1], groups, begin, depth - 1)
    starts = [group_starts]
    for place in range(GROUP - 1):
        starts.append(body.op("Add", body.op("MatMul", factors[place], group_starts), sums[place]))
    joined = body.op("Concat", *(body.op("Unsqueeze", one, body.constant([3])) for one in starts), axis=3)
    sizes = [body.size(begin, axis) for axis in (0, 1, 3, 4)]
    flat = body.reshape(joined, *sizes[:2], whole, *sizes[2:])
    return body.first(flat, count)
