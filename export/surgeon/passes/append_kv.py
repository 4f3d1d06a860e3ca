"""Caches in codes: an engine reads slots of fixed capacity and gives back its new rows alone.

TensorRT writes caches in place only in FP16, BF16 and FP32 (``TensorScatter`` refuses INT8 in TensorRT-RTX 1.7.1), and
TensorRT 10.3 takes INT8 only between Q and DQ, so codes cannot be joined inside. Here DequantizeLinear alone reads a
cache of codes and QuantizeLinear alone makes one: the graph never moves codes.

requires: a decoder, the KV form ``append``, and the text capacity.
matches: the Concat of past and new rows of each layer: of codes for the outputs, of floats in front of Attention.
apply: past caches get ``Plan.cache_rows`` of the capacity, outputs are the new rows. Attention goes on reading past and
new rows side by side; masks say which slots are filled. Inputs are those of ``inplace_kv`` (``text_mask`` over slots,
``past_text``, ``past_groups``), and so are the slots. Every state with a row for each cached row is treated so.
ensures: fixed capacities, and codes that nothing but DequantizeLinear reads and QuantizeLinear makes.
must not touch: states without rows.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.core.shapes import PLACE, VALUE_SCALE
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.cache_slots import Call, SlotRewriter, Stage, counted, joined, slot_mask, wanted
from luvc_export.export.surgeon.graph import Surgery, kind_of, readers, up

ORDER = 130

#: What stands between a cache and the Concat that Attention reads.
_BETWEEN = ("DequantizeLinear", "Mul", "Cast")


def requires(surgery: Surgery) -> str | None:
    """A target that wants it, and what capacities follow from."""
    return wanted(surgery, "append")


def apply(surgery: Surgery) -> int:
    """Rewrite layer by layer; masks are made once for each stage."""
    rewriter, fired = SlotRewriter(surgery, _mask), 0
    for past, rows, stage in rewriter.caches(VALUE_SCALE, PLACE):
        for attention in _attentions(past):
            rewriter.mask(attention, stage)
        past.shape = [rows if axis == past_axis(past) else size for axis, size in enumerate(past.shape)]
        _give_new(surgery, past)
        fired += 1
    rewriter.close()
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """Fixed capacities, and codes between Q and DQ alone.

    Raises:
        CheckFailed: Names a cache that is otherwise.
    """
    surgery.graph.cleanup()
    for tensor in surgery.graph.inputs if fired else ():
        if not tensor.name.startswith(graph_io.PAST_KEY_VALUES):
            continue
        if not isinstance(tensor.shape[2], int):
            raise CheckFailed("a cache has no fixed capacity", where=tensor.name, got=tensor.shape[2])
        if others := [node.op for node in readers(tensor) if node.op != "DequantizeLinear"]:
            raise CheckFailed("a cache of codes is read by something else", where=tensor.name, got=", ".join(others))
    for tensor in surgery.graph.outputs if fired else ():
        if kind_of(tensor) == np.int8 and up(tensor, "QuantizeLinear") is None:
            raise CheckFailed("codes come from something else than QuantizeLinear", where=tensor.name)


def past_axis(past: gs.Tensor) -> int:
    """Axis of the rows of a past cache [B, heads, rows, size] or state [B, rows]."""
    return 2 if len(past.shape) == 4 else 1


def _attentions(past: gs.Tensor) -> list[gs.Node]:
    """The Attention nodes that read a cache, joined to new rows."""
    wide = [past]
    for tensor in wide:
        wide += [node.outputs[0] for node in readers(tensor, *_BETWEEN)]
    joins = [node for tensor in wide for node in readers(tensor, "Concat") if node.inputs[0] is tensor]
    return [reader for join in joins for reader in readers(join.outputs[0], "Attention")]


def _give_new(surgery: Surgery, past: gs.Tensor) -> None:
    """Let the output be the new rows in place of past and new ones.

    Places are what windows are made of, so their Concat stays for those.
    """
    both, new = joined(past)
    index = next((at for at, out in enumerate(surgery.graph.outputs) if out is both), None)
    if index is None:
        raise CheckFailed("a cache with new rows is no output", where=past.name)
    name, both.name = both.name, surgery.name("both")
    alone = new
    if up(new, "QuantizeLinear") is None:
        alone = surgery.emit("Identity", [new], like=[new])[0]
    alone.name, alone.dtype = name, both.dtype
    alone.shape = [None if axis == past_axis(past) else size for axis, size in enumerate(past.shape)]
    surgery.graph.outputs[index] = alone


def _mask(surgery: Surgery, old: gs.Tensor, stage: Stage, call: Call) -> gs.Tensor:
    """Bool [B, 1, Q, slots + S]: a slot is seen when it is filled, a new row when its order is not greater."""

    def keys_of(new: gs.Tensor, sides: gs.Tensor | None) -> tuple[gs.Tensor, gs.Tensor | None]:
        capacity = int(call.text_mask.shape[1])
        before = surgery.emit("Unsqueeze", [call.past_text, [1]])[0]
        earlier = surgery.emit("Less", [np.arange(capacity)[None], before])[0]
        filled = surgery.emit("And", [call.text_mask, earlier])[0]
        valid: gs.Tensor = call.text_mask
        if stage.visual:
            held, visual = surgery.emit("Mul", [call.past_groups, [stage.keep]])[0], np.arange(stage.visual)[None]
            empty = surgery.emit("Unsqueeze", [surgery.emit("Sub", [[stage.visual], held])[0], [1]])[0]
            seen = surgery.emit("LessOrEqual", [empty, visual])[0]
            filled = surgery.emit("Concat", [seen, filled], axis=1)[0]
            every = surgery.emit("LessOrEqual", [surgery.emit("Mul", [empty, [0]])[0], visual])[0]
            valid = surgery.emit("Concat", [every, valid], axis=1)[0]
        slots = surgery.emit("Add", [surgery.emit("Unsqueeze", [stage.start, [1]])[0], counted(surgery, new)])[0]
        is_text = surgery.emit("GatherElements", [valid, slots], axis=1)[0]
        never = [np.iinfo(np.int64).max]
        past_keys = surgery.emit("Where", [filled, [-1], never])[0]
        new_keys = surgery.emit("Where", [is_text, new, never])[0]
        keys = surgery.emit("Concat", [past_keys, new_keys], axis=1)[0]
        if sides is None:
            return keys, None
        neither = surgery.emit("Mul", [past_keys, [0]])[0]
        past_sides = surgery.emit("Cast", [neither], to=int(onnx.TensorProto.FLOAT))[0]
        return keys, surgery.emit("Concat", [past_sides, sides], axis=1)[0]

    return slot_mask(surgery, old, keys_of)
