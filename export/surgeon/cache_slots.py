"""What both forms of caches of fixed capacity share: the inputs that say what they hold, and the parts of masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.errors import CheckFailed
from luvc_export.export.surgeon.graph import Surgery, readers, source, strip, up


class Stage(NamedTuple):
    """Where new rows go while ``keep`` visual tokens a group are there.

    Attributes:
        keep: Visual tokens of a group.
        visual: Slots of visual rows.
        start: First slot of each row's new rows, int64 [B].
    """

    keep: int
    visual: int
    start: gs.Tensor


class Call(NamedTuple):
    """What a call says of its rows: new groups [1], and ``graph_io``'s inputs of this form."""

    groups: gs.Tensor
    past_text: gs.Tensor
    past_groups: gs.Tensor
    text_mask: gs.Tensor


def wanted(surgery: Surgery, form: str) -> str | None:
    """Why caches do not become those of ``form`` here; None where they do.

    Raises:
        CheckFailed: They would, and nothing says what capacity.
    """
    if surgery.part != "decoder":
        return "the vision graph has no cache"
    if surgery.target.kv != form:
        return f"the target's KV form is {surgery.target.kv}"
    if any(tensor.name == graph_io.PAST_TEXT for tensor in surgery.graph.inputs):
        return "done already"
    if surgery.text_capacity is None:
        raise CheckFailed("caches of fixed capacity need the text capacity", fix="run_passes(..., text_capacity=...)")
    return None


def open_call(surgery: Surgery, capacity: int) -> tuple[Call, list[gs.Node]]:
    """Add the inputs, let ``text_mask`` be over slots, and return what asked for the new text's part of it."""
    inputs = {tensor.name: tensor for tensor in surgery.graph.inputs}
    text_mask = inputs[graph_io.TEXT_MASK]
    ends = readers(text_mask, "Slice", "Gather")
    text_mask.shape = [text_mask.shape[0], capacity]
    held = (graph_io.PAST_TEXT, graph_io.PAST_GROUPS)
    past_text, past_groups = (gs.Variable(name, np.dtype(np.int64), [text_mask.shape[0]]) for name in held)
    surgery.graph.inputs += [past_text, past_groups]
    groups = surgery.emit("Shape", [inputs[graph_io.VISUAL_EMBEDS]], start=1, end=2)[0]
    return Call(groups, past_text, past_groups, text_mask), ends


def close_call(surgery: Surgery, call: Call, ends: list[gs.Node]) -> None:
    """Give what asked for the new text's part of ``text_mask`` the slots behind ``past_text``."""
    order = next(tensor for tensor in surgery.graph.inputs if tensor.name == graph_io.ORDER)
    surgery.graph.cleanup()
    for node in ends:
        if node.outputs and surgery.is_read(node.outputs[0]):
            surgery.replace(node.outputs[0], _new_text(surgery, order, call))


def joined(past: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor]:
    """Past and new rows side by side, and the new ones.

    Raises:
        CheckFailed: They are not joined once.
    """
    joins = [node for node in readers(past, "Concat") if node.inputs[0] is past]
    if len(joins) != 1:
        raise CheckFailed("a cache is not joined to new rows once", where=past.name)
    return joins[0].outputs[0], joins[0].inputs[1]


def stage_of(surgery: Surgery, keep: int, visual: int, call: Call) -> Stage:
    """Where new rows go in a layer with ``visual`` slots of visual rows."""
    new = surgery.emit("Mul", [call.groups, [keep]])[0]
    room = surgery.emit("Sub", [[visual], new])[0]
    return Stage(keep, visual, surgery.emit("Add", [room, call.past_text])[0])


def _new_text(surgery: Surgery, order: gs.Tensor, call: Call) -> gs.Variable:
    """Which of the new text is no padding, bool [B, T]."""
    length = surgery.emit("Shape", [order], start=1, end=2)[0]
    count = surgery.emit("Squeeze", [length, [0]])[0]
    columns = surgery.emit("Range", [surgery.constant(0), count, surgery.constant(1)])[0]
    first = surgery.emit("Unsqueeze", [call.past_text, [1]])[0]
    index = surgery.emit("Add", [first, columns])[0]
    new = surgery.emit("GatherElements", [call.text_mask, index], axis=1)[0]
    new.dtype, new.shape = np.dtype(np.bool_), order.shape
    return new


def mask_parts(mask: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor | None]:
    """Who comes before whom, and who is within the window, where layers slide."""
    both = up(mask, "And")
    sides = [] if both is None else list(both.inputs)
    for index, tensor in enumerate(sides):
        if up(strip(tensor, "Unsqueeze"), "Greater") is not None:
            return sides[1 - index], tensor
    return mask, None


def orders_of(mask: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor]:
    """Order ids that a mask was made from: of the queries [B, Q], and of the new keys [B, S]."""
    both = up(strip(mask, "Slice", "Unsqueeze"), "And")
    compared = next((n for t in both.inputs if (n := up(t, "LessOrEqual"))), None) if both is not None else None
    if compared is None:
        raise CheckFailed("a mask is not made of orders", where=getattr(source(mask), "name", None))
    keys = up(strip(compared.inputs[0], "Slice", "Unsqueeze"), "Concat")
    if keys is None:
        raise CheckFailed("a mask's keys are not past and new ones", where=compared.name)
    return strip(compared.inputs[1], "Unsqueeze"), keys.inputs[1]


def without_sides(mask: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor | None]:
    """A mask without its sides (``choice.unparted``), and the side of every new row [B, S], where there are any."""
    both = up(mask, "And")
    for index, tensor in enumerate([] if both is None else both.inputs):
        compared = up(strip(tensor, "Unsqueeze"), "GreaterOrEqual")
        product = None if compared is None else up(compared.inputs[0], "Mul")
        if both is not None and product is not None:
            return both.inputs[1 - index], strip(product.inputs[0], "Unsqueeze")
    return mask, None


def unparted(surgery: Surgery, sides: gs.Tensor, keys: gs.Tensor) -> gs.Tensor:
    """Bool [B, 1, S, K]: a row of ``sides`` [B, S] sees ``keys`` [B, K] of its own side, and those of none (0)."""
    down, across = (surgery.emit("Unsqueeze", [one, axes])[0] for one, axes in ((sides, [1, 3]), (keys, [1, 2])))
    product = surgery.emit("Mul", [down, across])[0]
    return surgery.emit("GreaterOrEqual", [product, surgery.constant([0], dtype=np.float32)])[0]
