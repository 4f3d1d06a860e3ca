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
from luvc_export.core.shapes import PLACE, ROWS, State
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.cache_slots import (
    Call,
    Stage,
    close_call,
    joined,
    mask_parts,
    open_call,
    orders_of,
    stage_of,
    unparted,
    wanted,
    without_sides,
)
from luvc_export.export.surgeon.graph import Surgery, readers, strip, up

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
    capacity = surgery.text_capacity
    assert capacity is not None
    inputs = {tensor.name: tensor for tensor in surgery.graph.inputs}
    call, ends = open_call(surgery, capacity)
    stages: dict[int, Stage] = {}
    masks: dict[tuple[int, int], gs.Tensor] = {}
    fired = 0
    rows = surgery.plan.cache_rows(surgery.groups, capacity)
    for layer, keep in enumerate(surgery.plan.keep[: surgery.plan.cached]):
        names = [name for name in graph_io.past_names(layer + 1)[-2:] if name in inputs]
        if names and keep not in stages:
            stages[keep] = stage_of(surgery, keep, rows[layer] - capacity, call)
        for name in names:
            past = inputs[name]
            past.shape = [past.shape[0], past.shape[1], rows[layer], past.shape[3]]
            present, added = joined(past)
            start = stages[keep].start
            scattered = surgery.emit("TensorScatter", [past, added, start], like=[past], axis=-2, mode="linear")
            surgery.replace(present, scattered[0])
            scattered[0].shape = list(past.shape)
            fired += 1
            for node in readers(scattered[0], "Attention"):
                if any(node.inputs[3] is mask for mask in masks.values()):
                    continue
                key = (keep, id(node.inputs[3]))
                if key not in masks:
                    masks[key] = _mask(surgery, node.inputs[3], stages[keep], call)
                node.inputs[3] = masks[key]
        beside = inputs.get(State(layer, PLACE, (ROWS,)).past)
        if beside is not None:
            beside.shape = [beside.shape[0], rows[layer]]
            _place_rows(surgery, beside, stages[keep])
            fired += 1
    close_call(surgery, call, ends)
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

    A sliding window stays beside that: it compares places, which are of slots as well. So do the two sides of tokens
    that are kept apart, made anew of the sides of slots.
    """
    cut = up(old, "Slice")
    whole, sides = without_sides(strip(old, "Slice"))
    causal, window = mask_parts(whole)
    order, new = orders_of(causal)
    count = stage.visual + int(call.text_mask.shape[1])
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
    across = surgery.emit("Unsqueeze", [seen_keys, [1, 2]])[0]
    down = surgery.emit("Unsqueeze", [order, [1, 3]])[0]
    mask = surgery.emit("LessOrEqual", [across, down])[0]
    if window is not None:
        mask = surgery.emit("And", [mask, window])[0]
    if sides is not None:
        neither = surgery.constant([0], dtype=np.float32)
        new_sides = surgery.emit("GatherElements", [sides, slots.place], axis=1)[0]
        slot_sides = surgery.emit("Where", [slots.is_past, neither, new_sides])[0]
        mask = surgery.emit("And", [mask, unparted(surgery, sides, slot_sides)])[0]
    if cut is not None:
        mask = surgery.emit("Slice", [mask, *cut.inputs[1:]])[0]
    mask.dtype = np.dtype(np.bool_)
    mask.shape = [*list(old.shape)[:3], count] if old.shape is not None else None
    return mask
