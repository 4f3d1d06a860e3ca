"""Caches of fixed capacity, written in place: decode shapes are then static, as CUDA graphs want.

requires: a decoder, the KV form ``inplace`` (opset 24), and the text capacity.
matches: the Concat of past and new rows in front of every Attention, and the mask of each stage.
apply: TensorScatter writes the new rows of a layer into a cache of ``Plan.cache_rows`` of the capacity; masks are
explicit, over slots. The contract changes as docs/surgery.md says: ``text_mask`` is [B, text_capacity] over text
slots, ``past_text`` and ``past_groups`` (int64 [B]) say what the cache holds, for each row of the batch: rows join and
leave one by one, and none waits for another. Visual rows end where text slots begin, so a call with fewer images
leaves its first slots empty. What Attention sums is the same, in rows of other length.
ensures: every cache has a fixed capacity, and no Concat of past and new rows is left.
must not touch: a cache with other readers than Attention and the outputs.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
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


def apply(surgery: Surgery) -> int:
    """Rewrite layer by layer; masks are made once for each stage."""
    capacity = surgery.text_capacity
    assert capacity is not None
    inputs = {tensor.name: tensor for tensor in surgery.graph.inputs}
    text_mask = inputs[graph_io.TEXT_MASK]
    text_mask.shape = [text_mask.shape[0], capacity]
    held = (graph_io.PAST_TEXT, graph_io.PAST_GROUPS)
    past_text, past_groups = (gs.Variable(name, np.dtype(np.int64), [text_mask.shape[0]]) for name in held)
    surgery.graph.inputs += [past_text, past_groups]
    groups = surgery.emit("Shape", [inputs[graph_io.VISUAL_EMBEDS]], start=1, end=2)[0]
    starts: dict[int, gs.Tensor] = {}
    masks: dict[tuple[int, int], gs.Tensor] = {}
    fired = 0
    rows = surgery.plan.cache_rows(surgery.groups, capacity)
    for layer, keep in enumerate(surgery.plan.keep[: surgery.plan.cached]):
        visual = rows[layer] - capacity
        if keep not in starts:
            new = surgery.emit("Mul", [groups, [keep]])[0]
            room = surgery.emit("Sub", [[visual], new])[0]
            starts[keep] = surgery.emit("Add", [room, past_text])[0]
        for name in graph_io.past_names(layer + 1)[-2:]:
            past = inputs[name]
            joins = [node for node in readers(past, "Concat") if node.inputs[0] is past]
            if len(joins) != 1:
                raise CheckFailed("a cache is not joined to new rows once", where=name)
            present = joins[0].outputs[0]
            past.shape = [past.shape[0], past.shape[1], rows[layer], past.shape[3]]
            added = joins[0].inputs[1]
            scattered = surgery.emit("TensorScatter", [past, added, starts[keep]], like=[past], axis=-2, mode="linear")
            surgery.replace(present, scattered[0])
            scattered[0].shape = list(past.shape)
            fired += 1
            for node in readers(scattered[0], "Attention"):
                if any(node.inputs[3] is mask for mask in masks.values()):
                    continue
                key = (keep, id(node.inputs[3]))
                if key not in masks:
                    masks[key] = _mask(
                        surgery, node.inputs[3], visual, keep, starts[keep], groups, past_groups, text_mask
                    )
                node.inputs[3] = masks[key]
    return fired


def ensures(surgery: Surgery, fired: int) -> None:
    """Fixed capacities.

    Raises:
        CheckFailed: Names a cache that grows.
    """
    surgery.graph.cleanup()
    for tensor in surgery.graph.inputs if fired else ():
        if tensor.name.startswith("past_key_values."):
            if not isinstance(tensor.shape[2], int):
                raise CheckFailed("a cache has no fixed capacity", where=tensor.name, got=tensor.shape[2])
            if readers(tensor, "Concat"):
                raise CheckFailed("a cache is still joined to new rows", where=tensor.name)


def _mask(
    surgery: Surgery,
    old: gs.Tensor,
    visual: int,
    keep: int,
    start: gs.Tensor,
    groups: gs.Tensor,
    past_groups: gs.Tensor,
    text_mask: gs.Tensor,
) -> gs.Tensor:
    """Bool [B, 1, S, capacity]: a slot is seen when it is filled and past, or new and its order is not greater."""
    cut = up(old, "Slice")
    order, new = _orders(old)
    length = surgery.emit("Shape", [new], start=1, end=2)[0]
    slots = np.arange(visual + int(text_mask.shape[1]))
    first = surgery.emit("Unsqueeze", [start, [1]])[0]
    behind = surgery.emit("Sub", [slots[None], first])[0]
    last = surgery.emit("Sub", [length, [1]])[0]
    floored = surgery.emit("Max", [behind, [0]])[0]
    place = surgery.emit("Min", [floored, last])[0]
    new_order = surgery.emit("GatherElements", [new, place], axis=1)[0]
    is_late = surgery.emit("Less", [last, behind])[0]
    is_early = surgery.emit("Less", [behind, [0]])[0]
    is_past = surgery.emit("Or", [is_early, is_late])[0]
    keys = surgery.emit("Where", [is_past, [-1], new_order])[0]
    valid: gs.Tensor = text_mask
    if visual:
        held = surgery.emit("Add", [groups, past_groups])[0]
        rows = surgery.emit("Mul", [held, [keep]])[0]
        room = surgery.emit("Sub", [[visual], rows])[0]
        empty = surgery.emit("Unsqueeze", [room, [1]])[0]
        filled = surgery.emit("LessOrEqual", [empty, np.arange(visual)[None]])[0]
        valid = surgery.emit("Concat", [filled, text_mask], axis=1)[0]
    seen_keys = surgery.emit("Where", [valid, keys, [np.iinfo(np.int64).max]])[0]
    across = surgery.emit("Unsqueeze", [seen_keys, [1, 2]])[0]
    down = surgery.emit("Unsqueeze", [order, [1, 3]])[0]
    mask = surgery.emit("LessOrEqual", [across, down])[0]
    if cut is not None:
        mask = surgery.emit("Slice", [mask, *cut.inputs[1:]])[0]
    mask.dtype = np.dtype(np.bool_)
    mask.shape = [*list(old.shape)[:3], len(slots)] if old.shape is not None else None
    return mask


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
