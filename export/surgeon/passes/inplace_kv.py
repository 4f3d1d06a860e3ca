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
from luvc_export.export.surgeon.graph import Surgery, readers, source, strip, up

ORDER = 120


def requires(surgery: Surgery) -> str | None:
    """A target that wants it, and what capacities follow from."""
    if surgery.part != "decoder":
        return "the vision graph has no cache"
    if surgery.target.kv != "inplace":
        return f"the target's KV form is {surgery.target.kv}"
    if any(tensor.name == graph_io.PAST_TEXT for tensor in surgery.graph.inputs):
        return "done already"
    if surgery.text_capacity is None:
        raise CheckFailed("in-place caches need the text capacity", fix="run_passes(..., text_capacity=...)")
    return None


class _Stage(NamedTuple):
    """Where new rows go while ``keep`` visual tokens a group are there.

    Attributes:
        keep: Visual tokens of a group.
        visual: Slots of visual rows.
        start: First slot of each row's new rows, int64 [B].
    """

    keep: int
    visual: int
    start: gs.Tensor


class _Slots(NamedTuple):
    """Which slots new rows take, each int64 or bool [B, slots].

    Attributes:
        place: Of the new rows, the one that takes the slot, or the nearest.
        is_past: The slot is no new row's.
    """

    place: gs.Tensor
    is_past: gs.Tensor


class _Call(NamedTuple):
    """What a call says of its rows: new groups [1], and ``graph_io``'s inputs of this form."""

    groups: gs.Tensor
    past_text: gs.Tensor
    past_groups: gs.Tensor
    text_mask: gs.Tensor


def apply(surgery: Surgery) -> int:
    """Rewrite layer by layer; masks are made once for each stage."""
    capacity = surgery.text_capacity
    assert capacity is not None
    inputs = {tensor.name: tensor for tensor in surgery.graph.inputs}
    text_mask = inputs[graph_io.TEXT_MASK]
    ends = readers(text_mask, "Slice", "Gather")
    text_mask.shape = [text_mask.shape[0], capacity]
    held = (graph_io.PAST_TEXT, graph_io.PAST_GROUPS)
    past_text, past_groups = (gs.Variable(name, np.dtype(np.int64), [text_mask.shape[0]]) for name in held)
    surgery.graph.inputs += [past_text, past_groups]
    groups = surgery.emit("Shape", [inputs[graph_io.VISUAL_EMBEDS]], start=1, end=2)[0]
    call = _Call(groups, past_text, past_groups, text_mask)
    stages: dict[int, _Stage] = {}
    masks: dict[tuple[int, int], gs.Tensor] = {}
    fired = 0
    rows = surgery.plan.cache_rows(surgery.groups, capacity)
    for layer, keep in enumerate(surgery.plan.keep[: surgery.plan.cached]):
        names = [name for name in graph_io.past_names(layer + 1)[-2:] if name in inputs]
        if names and keep not in stages:
            stages[keep] = _stage(surgery, keep, rows[layer] - capacity, call)
        for name in names:
            past = inputs[name]
            past.shape = [past.shape[0], past.shape[1], rows[layer], past.shape[3]]
            present, added = _joined(past)
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
    surgery.graph.cleanup()
    for node in ends:
        if node.outputs and surgery.is_read(node.outputs[0]):
            surgery.replace(node.outputs[0], _new_text(surgery, inputs[graph_io.ORDER], call))
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


def _joined(past: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor]:
    """Past and new rows side by side, and the new ones.

    Raises:
        CheckFailed: They are not joined once.
    """
    joins = [node for node in readers(past, "Concat") if node.inputs[0] is past]
    if len(joins) != 1:
        raise CheckFailed("a cache is not joined to new rows once", where=past.name)
    return joins[0].outputs[0], joins[0].inputs[1]


def _stage(surgery: Surgery, keep: int, visual: int, call: _Call) -> _Stage:
    new = surgery.emit("Mul", [call.groups, [keep]])[0]
    room = surgery.emit("Sub", [[visual], new])[0]
    return _Stage(keep, visual, surgery.emit("Add", [room, call.past_text])[0])


def _place_rows(surgery: Surgery, past: gs.Tensor, stage: _Stage) -> None:
    """Entries of the new rows in their slots, those of the past in the others."""
    present, added = _joined(past)
    slots = _slots(surgery, added, stage, int(past.shape[1]))
    placed = surgery.emit("GatherElements", [added, slots.place], axis=1)[0]
    whole = surgery.emit("Where", [slots.is_past, past, placed], like=[past])[0]
    surgery.replace(present, whole)
    whole.shape = list(past.shape)


def _new_text(surgery: Surgery, order: gs.Tensor, call: _Call) -> gs.Variable:
    """Which of the new text is no padding, bool [B, T]."""
    length = surgery.emit("Shape", [order], start=1, end=2)[0]
    count = surgery.emit("Squeeze", [length, [0]])[0]
    columns = surgery.emit("Range", [surgery.constant(0), count, surgery.constant(1)])[0]
    first = surgery.emit("Unsqueeze", [call.past_text, [1]])[0]
    index = surgery.emit("Add", [first, columns])[0]
    new = surgery.emit("GatherElements", [call.text_mask, index], axis=1)[0]
    new.dtype, new.shape = np.dtype(np.bool_), order.shape
    return new


def _slots(surgery: Surgery, new: gs.Tensor, stage: _Stage, count: int) -> _Slots:
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


def _mask(surgery: Surgery, old: gs.Tensor, stage: _Stage, call: _Call) -> gs.Tensor:
    """Bool [B, 1, S, slots]: a slot is seen when it is filled and past, or new and its order is not greater.

    A sliding window stays beside that: it compares places, which are of slots as well. So do the two sides of tokens
    that are kept apart, made anew of the sides of slots.
    """
    cut = up(old, "Slice")
    whole, sides = _without_sides(strip(old, "Slice"))
    causal, window = _parts(whole)
    order, new = _orders(causal)
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
        mask = surgery.emit("And", [mask, _unparted(surgery, sides, slots)])[0]
    if cut is not None:
        mask = surgery.emit("Slice", [mask, *cut.inputs[1:]])[0]
    mask.dtype = np.dtype(np.bool_)
    mask.shape = [*list(old.shape)[:3], count] if old.shape is not None else None
    return mask


def _without_sides(mask: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor | None]:
    """A mask without its sides (``choice.unparted``), and the side of every new row [B, S], where there are any."""
    both = up(mask, "And")
    for index, tensor in enumerate([] if both is None else both.inputs):
        compared = up(strip(tensor, "Unsqueeze"), "GreaterOrEqual")
        product = None if compared is None else up(compared.inputs[0], "Mul")
        if both is not None and product is not None:
            return both.inputs[1 - index], strip(product.inputs[0], "Unsqueeze")
    return mask, None


def _unparted(surgery: Surgery, sides: gs.Tensor, slots: _Slots) -> gs.Tensor:
    """Bool [B, 1, S, slots]: a row sees its own side's slots, and those of none, as past ones are."""
    neither = surgery.constant([0], dtype=np.float32)
    new = surgery.emit("GatherElements", [sides, slots.place], axis=1)[0]
    keys = surgery.emit("Where", [slots.is_past, neither, new])[0]
    down, across = (surgery.emit("Unsqueeze", [one, axes])[0] for one, axes in ((sides, [1, 3]), (keys, [1, 2])))
    product = surgery.emit("Mul", [down, across])[0]
    return surgery.emit("GreaterOrEqual", [product, neither])[0]


def _parts(mask: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor | None]:
    """Who comes before whom, and who is within the window, where layers slide."""
    both = up(mask, "And")
    sides = [] if both is None else list(both.inputs)
    for index, tensor in enumerate(sides):
        if up(strip(tensor, "Unsqueeze"), "Greater") is not None:
            return sides[1 - index], tensor
    return mask, None


def _orders(mask: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor]:
    """Order ids that a mask was made from: of the queries [B, Q], and of the new keys [B, S]."""
    both = up(strip(mask, "Slice", "Unsqueeze"), "And")
    compared = next((n for t in both.inputs if (n := up(t, "LessOrEqual"))), None) if both is not None else None
    if compared is None:
        raise CheckFailed("a mask is not made of orders", where=getattr(source(mask), "name", None))
    keys = up(strip(compared.inputs[0], "Slice", "Unsqueeze"), "Concat")
    if keys is None:
        raise CheckFailed("a mask's keys are not past and new ones", where=compared.name)
    return strip(compared.inputs[1], "Unsqueeze"), keys.inputs[1]
