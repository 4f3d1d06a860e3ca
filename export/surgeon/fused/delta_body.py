"""ONNX body of luvc::GatedDeltaRule (``llm.states.delta_rule``) in standard operators, for any number of rows.

One row follows the rule as it stands, more are chunks of ``CHUNK``; whichever it is not has no rows, and computes
nothing. What follows from the number of rows alone is made of ``order``, which all layers share, and so are its nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from luvc_export.export.llm.states.delta_rule import CHUNK, DEPTH, DOMAIN, NAME, block_masks

_OPSET = 23
#: Behind every place of an axis.
_END = 2**62
#: A decay whose logarithm is less counts as whole: products of two such shares would be subnormal numbers, with which
#: CPUs multiply a hundred times slower.
_LEAST = np.float32(-39)
#: Of nothing.
_NOTHING = np.float32(-1e30)
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
        array = array if array.dtype.kind == "b" else array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        key = f"{array.dtype}{array.shape}{array.tobytes()!r}"
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=numpy_helper.from_array(array))
        return self._constants[key]

    def span(self, tensor: str, start: int | str, end: int | str, axis: int = 2, step: int = 1) -> str:
        """From ``start`` to before ``end`` along an axis; a name is of an int64 [1]."""
        places = [self.constant([place]) if isinstance(place, int) else place for place in (start, end)]
        return self.op("Slice", tensor, *places, self.constant([axis]), self.constant([step]))

    def shaped(self, tensor: str, *sizes: int | str) -> str:
        """To these sizes: 0 is the size of before, a name is of an int64 [1]."""
        parts = [self.constant([size]) if isinstance(size, int) else size for size in sizes]
        return self.op("Reshape", tensor, self.op("Concat", *parts, axis=0))

    def wider(self, tensor: str, *axes: int) -> str:
        """With new axes of 1."""
        return self.op("Unsqueeze", tensor, self.constant([*axes]))

    def share(self, logarithm: str) -> str:
        """What a decay leaves."""
        is_whole = self.op("Less", logarithm, self.constant(_LEAST))
        return self.op("Exp", self.op("Where", is_whole, self.constant(_NOTHING), logarithm))

    def turned(self, tensor: str) -> str:
        """The last two of five axes exchanged."""
        return self.op("Transpose", tensor, perm=[0, 1, 2, 4, 3])

    def product(self, *factors: str) -> str:
        """Of matrices, from the left."""
        product, *others = factors
        for factor in others:
            product = self.op("MatMul", product, factor)
        return product


class _Chunks:
    """``count`` chunks of ``CHUNK`` rows, int64 [1], perhaps none; ``rows`` int64 [1] are in them."""

    def __init__(self, body: _Body, heads: int, sizes: tuple[int, int], rows: str, count: str) -> None:
        self.body, self.heads, self.sizes, self.rows, self.count = body, heads, sizes, rows, count
        self.whole = body.op("Mul", count, body.constant([CHUNK]))
        query, key, value = (self._split(name, size) for name, size in zip(INPUTS, (sizes[0], *sizes), strict=False))
        decay, beta = self._split("decay"), body.wider(self._split("beta"), -1)
        faded = body.product(decay, body.constant(np.triu(np.ones((CHUNK, CHUNK), np.float32))))
        behind = body.op("Sub", body.wider(faded, -1), body.wider(faded, -2))
        lower = body.constant(np.tril(np.ones((CHUNK, CHUNK), bool)))
        near = body.op("And", lower, body.op("Greater", behind, body.constant(_LEAST)))
        between = body.op("Exp", body.op("Where", near, behind, body.constant(_NOTHING)))
        keys, turned_key = body.op("Mul", key, beta), body.turned(key)
        inverse = self._inverse(body.op("Mul", body.product(keys, turned_key), between))
        grown = body.wider(body.share(faded), -1)
        self.values = body.product(inverse, body.op("Mul", value, beta))
        self.read = body.product(inverse, body.op("Mul", keys, grown))
        self.query = body.op("Mul", query, grown)
        self.seen = body.op("Mul", body.product(query, turned_key), between)
        end = body.span(faded, CHUNK - 1, CHUNK, axis=3)
        self.end, self.stays = body.wider(end, -1), body.wider(body.share(end), -1)
        left = body.op("Mul", key, body.wider(body.share(body.op("Sub", end, faded)), -1))
        self.left = body.turned(left)

    def _split(self, name: str, *size: int) -> str:
        """Rows [B, H, S, ...] -> [B, H, chunks, CHUNK, ...]."""
        body, rank = self.body, 3 + len(size)
        more = body.op("Sub", self.whole, self.rows)
        pads = body.op("Concat", body.constant([0] * (rank + 2)), more, *[body.constant([0])] * len(size), axis=0)
        padded = body.op("Pad", body.span(name, 0, self.rows), pads)
        return body.shaped(padded, 0, 0, self.count, CHUNK, *size)

    def _inverse(self, alike: str) -> str:
        """Of I + ``alike``'s strictly lower part: of both halves beside each other, then of what joins them."""
        body, half = self.body, CHUNK // 2
        upper, lower = (body.span(body.span(alike, at, at + half, 3), at, at + half, 4) for at in (0, half))
        halves, inverse = body.op("Concat", upper, lower, axis=1), ""
        for mask in block_masks(half):
            part = body.op("Mul", halves, body.constant(mask.numpy()))
            if not inverse:
                inverse = body.op("Sub", body.constant(np.eye(half, dtype=np.float32)), part)
                continue
            inverse = body.op("Sub", inverse, body.product(inverse, part, inverse))
        first, second = (body.span(inverse, at, at + self.heads, 1) for at in (0, self.heads))
        joining = body.span(body.span(alike, half, CHUNK, 3), 0, half, 4)
        below = body.op("Neg", body.product(second, joining, first))
        above = body.op("Pad", first, body.constant([0] * 9 + [half]))
        return body.op("Concat", above, body.op("Concat", below, second, axis=4), axis=3)

    def finish(self, starts: str) -> tuple[str, str]:
        """From the states [B, H, chunks, Dk, Dv] that chunks begin with: what rows read, and the state at the end.

        The rows are [B, H, rows, Dv], the state [B, H, 1, Dk, Dv], or none of either.
        """
        body = self.body
        new = body.op("Sub", self.values, body.product(self.read, starts))
        out = body.op("Add", body.product(self.query, starts), body.product(self.seen, new))
        flat = body.shaped(out, 0, 0, self.whole, self.sizes[1])
        last = [body.span(one, -1, _END) for one in (starts, self.stays, self.left, new)]
        after = body.op("Add", body.op("Mul", *last[:2]), body.product(*last[2:]))
        return body.span(flat, 0, self.rows), after

    def starts(self, begin: str) -> str:
        """The state that each chunk begins with, [B, H, chunks, Dk, Dv], of that before the first."""
        body = self.body
        faded = body.op("Mul", self.stays, body.constant(np.eye(self.sizes[0], dtype=np.float32)))
        factor = body.op("Sub", faded, body.product(self.left, self.read))
        step = factor, body.product(self.left, self.values), self.end
        return _starts(body, step, self.count, begin, -1)


def gated_delta_rule(heads: int, key_size: int, value_size: int) -> onnx.FunctionProto:
    """The body for so many heads of such keys and values; inputs and outputs as ``delta_rule.gated_delta_rule``."""
    body = _Body()
    rows = body.op("Shape", "order", start=1, end=2)
    single = body.op("Cast", body.op("Equal", rows, body.constant([1])), to=onnx.TensorProto.INT64)
    several = body.op("Sub", body.constant([1]), single)
    count = body.op("Div", body.op("Add", rows, body.constant([CHUNK - 1])), body.constant([CHUNK]))
    count, rows = (body.op("Mul", number, several) for number in (count, rows))
    begin = body.wider("state", 2)
    chunks = _Chunks(body, heads, (key_size, value_size), rows, count)
    parts = [chunks.finish(chunks.starts(begin)), _one_row(body, single, begin)]
    body.nodes.append(helper.make_node("Concat", [out for out, _ in parts], [OUTPUTS[0]], axis=2))
    after = body.op("Concat", *(after for _, after in parts), axis=2)
    body.nodes.append(helper.make_node("Squeeze", [after, body.constant([2])], [OUTPUTS[1]]))
    opset = [helper.make_opsetid("", _OPSET)]
    return helper.make_function(DOMAIN, NAME, INPUTS, OUTPUTS, body.nodes, opset)


def _one_row(body: _Body, single: str, begin: str) -> tuple[str, str]:
    """What the only row reads, [B, H, 1, Dv], and the state [B, H, 1, Dk, Dv] after it; none where there are more."""
    query, key, value, decay, beta = (body.span(name, 0, single) for name in INPUTS[:5])
    state = body.op("Mul", body.span(begin, 0, single), body.wider(body.op("Exp", decay), -1, -2))
    known = body.product(body.wider(key, 3), state)
    new = body.op("Mul", body.op("Sub", body.wider(value, 3), known), body.wider(beta, -1, -2))
    after = body.op("Add", state, body.product(body.wider(key, 4), new))
    out = body.product(body.wider(query, 3), after)
    return body.op("Squeeze", out, body.constant([3])), after


def attach(model: ir.Model) -> None:
    """Give ``model`` the body, if it has the operator; all layers of one model have the same sizes."""
    states = [node.inputs[5] for node in model.graph if node.domain == DOMAIN and node.op_type == NAME]
    if not states:
        return
    shapes = {tuple(state.shape)[1:] for state in states if state is not None and state.shape is not None}
    (sizes,) = shapes
    heads, key_size, value_size = (int(str(size)) for size in sizes)
    function = ir.from_proto(gated_delta_rule(heads, key_size, value_size))
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = 1


def _starts(
    body: _Body, step: tuple[str, str, str], count: str, begin: str, beyond: int = _END, depth: int = DEPTH
) -> str:
    """The state that each of ``count`` steps begins with, [B, H, count, Dk, Dv], ``begin`` first.

    A step makes F S + A of S: F [B, H, count - 1, Dk, Dk], A [B, H, count - 1, Dk, Dv], and the logarithm of
    its decay [B, H, count - 1, 1, 1]. What the last step does is not asked for: where it is there, ``beyond`` is -1.
    """
    if not depth:
        return body.span(begin, 0, count)
    less = -1 if beyond == _END else beyond - 1
    first = [body.span(one, 0, beyond, step=2) for one in step[:2]]
    early = [body.span(one, 0, less, step=2) for one in step]
    late = [body.span(one, 1, beyond, step=2) for one in step]
    odd = body.op("Div", count, body.constant([2]))
    even = body.op("Sub", count, odd)
    decay = body.op("Add", late[2], early[2])
    stays = body.op("Cast", body.op("Greater", decay, body.constant(_LEAST)), to=onnx.TensorProto.FLOAT)
    both = body.op("Mul", body.product(late[0], early[0]), stays)
    total = body.op("Add", body.product(late[0], early[1]), late[1])
    even_starts = _starts(body, (both, total, decay), even, begin, depth=depth - 1)
    odd_starts = body.op("Add", body.product(first[0], body.span(even_starts, 0, odd)), first[1])
    places = body.op("Range", body.constant(0), body.op("Squeeze", count), body.constant(1))
    halves, rest = (body.op(kind, places, body.constant(2)) for kind in ("Div", "Mod"))
    order = body.op("Add", halves, body.op("Mul", rest, even))
    return body.op("Gather", body.op("Concat", even_starts, odd_starts, axis=2), order, axis=2)
