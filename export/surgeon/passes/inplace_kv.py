"""Caches of fixed capacity, written in place: decode shapes are then static, as CUDA graphs want.

requires: a decoder, the KV form ``inplace`` (opset 24), and the text capacity.
matches: the Concat of past and new rows in front of every Attention, and the mask of each stage.
apply: TensorScatter writes the new rows of a layer into a cache of ``Plan.cache_rows`` of the capacity; masks are
explicit, over slots. The contract changes as docs/surgery.md says: ``text_mask`` is [B, text_capacity] over text
slots, ``past_text`` and ``past_groups`` (int64 [B]) say what the cache holds, for each row of the batch: rows join and
leave one by one, and none waits for another. Visual rows end where text slots begin, so a call with fewer images
leaves its first slots empty. What Attention sums is the same, in rows of other length. A state of one entry a cached
row (the place that sliding windows ask for) has one a slot, and comes out whole, the new entries in their slots.
What asks for the new text's part of ``text_mask``, its last columns before, gets the slots behind ``past_text``.
ensures: every cache has a fixed capacity, and no Concat of past and new rows is left.
must not touch: a cache with other readers than Attention and the outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.core.shapes import PLACE
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.cache_slots import Call, SlotRewriter, Stage, joined, slot_mask, wanted
from luvc_export.export.surgeon.graph import Surgery, readers

ORDER = 120


def requires(surgery: Surgery) -> str | None:
    """A target that wants it, and what capacities follow from."""
    return wanted(surgery, "inplace")


class _Slots(NamedTuple):
    """Which slots new rows take, each int64 or bool [B, slots].

    Attributes:
        place: Of the new rows, the one that takes the slot, or the nearest.
        is_past: The slot is no new row's.
    """

    place: gs.Tensor
    is_past: gs.Tensor


def apply(surgery: Surgery) -> int:
    """Rewrite layer by layer; masks are made once for each stage."""
    rewriter, fired = SlotRewriter(surgery, _mask), 0
    for past, rows, stage in rewriter.caches(PLACE):
        fired += 1
        if len(past.shape) == 2:  # the place of every cached row
            past.shape = [past.shape[0], rows]
            _place_rows(surgery, past, stage)
            continue
        past.shape = [past.shape[0], past.shape[1], rows, past.shape[3]]
        present, added = joined(past)
        scattered = surgery.emit("TensorScatter", [past, added, stage.start], like=[past], axis=-2, mode="linear")[0]
        surgery.replace(present, scattered)
        scattered.shape = list(past.shape)
        for node in readers(scattered, "Attention"):
            rewriter.mask(node, stage)
    rewriter.close()
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """Fixed capacities.

    Raises:
        CheckFailed: Names a cache that grows.
    """
    surgery.graph.cleanup()
    for tensor in surgery.graph.inputs if fired else ():
        if tensor.name.startswith(graph_io.PAST_KEY_VALUES):
            if not isinstance(tensor.shape[2], int):
                raise CheckFailed("a cache has no fixed capacity", where=tensor.name, got=tensor.shape[2])
            if readers(tensor, "Concat"):
                raise CheckFailed("a cache is still joined to new rows", where=tensor.name)


def _place_rows(surgery: Surgery, past: gs.Tensor, stage: Stage) -> None:
    """Entries of the new rows in their slots, those of the past in the others."""
    present, added = joined(past)
    slots = _slots(surgery, added, stage, int(past.shape[1]))
    placed = surgery.emit("GatherElements", [added, slots.place], axis=1)[0]
    whole = surgery.emit("Where", [slots.is_past, past, placed], like=[past])[0]
    surgery.replace(present, whole)
    whole.shape = list(past.shape)


def _slots(surgery: Surgery, new: gs.Tensor, stage: Stage, count: int) -> _Slots:
    """For ``count`` slots, of new rows whose orders or places are ``new`` [B, S]."""
    length = surgery.emit("Shape", [new], start=1, end=2)[0]
    first = surgery.emit("Unsqueeze", [stage.start, [1]])[0]
    behind = surgery.emit("Sub", [np.arange(count)[None], first])[0]
    last = surgery.emit("Sub", [length, [1]])[0]
    floored = surgery.emit("Max", [behind, [0]])[0]
    place = surgery.emit("Min", [floored, last])[0]
    is_late = surgery.emit("Less", [last, behind])[0]
    is_early = surgery.emit("Less", [behind, [0]])[0]
    return _Slots(place, surgery.emit("Or", [is_early, is_late])[0])


def _mask(surgery: Surgery, old: gs.Tensor, stage: Stage, call: Call) -> gs.Tensor:
    """Bool [B, 1, S, slots]: a slot is seen when it is filled and past, or new and its order is not greater.

    Sides of tokens that are kept apart are made anew of the sides of slots.
    """
    count = stage.visual + int(call.text_mask.shape[1])

    def keys_of(new: gs.Tensor, sides: gs.Tensor | None) -> tuple[gs.Tensor, gs.Tensor | None]:
        slots = _slots(surgery, new, stage, count)
        new_order = surgery.emit("GatherElements", [new, slots.place], axis=1)[0]
        keys = surgery.emit("Where", [slots.is_past, [-1], new_order])[0]
        valid: gs.Tensor = call.text_mask
        if stage.visual:
            held = surgery.emit("Add", [call.groups, call.past_groups])[0]
            rows = surgery.emit("Mul", [held, [stage.keep]])[0]
            room = surgery.emit("Sub", [[stage.visual], rows])[0]
            empty = surgery.emit("Unsqueeze", [room, [1]])[0]
            filled = surgery.emit("LessOrEqual", [empty, np.arange(stage.visual)[None]])[0]
            valid = surgery.emit("Concat", [filled, call.text_mask], axis=1)[0]
        seen_keys = surgery.emit("Where", [valid, keys, [np.iinfo(np.int64).max]])[0]
        if sides is None:
            return seen_keys, None
        neither = surgery.constant([0], dtype=np.float32)
        new_sides = surgery.emit("GatherElements", [sides, slots.place], axis=1)[0]
        return seen_keys, surgery.emit("Where", [slots.is_past, neither, new_sides])[0]

    return slot_mask(surgery, old, keys_of, count)
