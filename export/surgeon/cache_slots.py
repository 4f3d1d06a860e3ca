"""What both forms of caches of fixed capacity share: the inputs that say what they hold, and the parts of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from luvc_export.core import graph_io
from luvc_export.core.shapes import ROWS, State
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


class SlotRewriter:
    """A decoder whose caches become slots; the stages and masks that its layers share are made once.

    ``text_mask`` is over slots from then on, and the graph has the inputs that say what its caches hold.

    Args:
        surgery: The decoder, with its text capacity.
        make_mask: From the mask of before, a stage and the call to the mask over slots.
    """

    def __init__(self, surgery: Surgery, make_mask: Callable[[Surgery, gs.Tensor, Stage, Call], gs.Tensor]) -> None:
        capacity = surgery.text_capacity
        assert capacity is not None
        self._surgery, self._make_mask, self._capacity = surgery, make_mask, capacity
        self._stages, self._masks = dict[int, Stage](), dict[tuple[int, int], gs.Tensor]()
        self._inputs = {tensor.name: tensor for tensor in surgery.graph.inputs}
        text_mask = self._inputs[graph_io.TEXT_MASK]
        self._ends = readers(text_mask, "Slice", "Gather")  # what asks for the new text's part of it
        text_mask.shape = [text_mask.shape[0], capacity]
        held = (graph_io.PAST_TEXT, graph_io.PAST_GROUPS)
        past_text, past_groups = (gs.Variable(name, np.dtype(np.int64), [text_mask.shape[0]]) for name in held)
        surgery.graph.inputs += [past_text, past_groups]
        groups = surgery.emit("Shape", [self._inputs[graph_io.VISUAL_EMBEDS]], start=1, end=2)[0]
        self._call = Call(groups, past_text, past_groups, text_mask)

    def caches(self, *states: str) -> Iterator[tuple[gs.Tensor, int, Stage]]:
        """Past keys, values and ``states`` of a row each, layer by layer, with their slots and where new rows go."""
        plan = self._surgery.plan
        rows = plan.cache_rows(self._surgery.groups, self._capacity)
        for layer, keep in enumerate(plan.keep[: plan.cached]):
            names = [*graph_io.past_names(layer + 1)[-2:], *(State(layer, name, (ROWS,)).past for name in states)]
            for past in [self._inputs[name] for name in names if name in self._inputs]:
                if keep not in self._stages:
                    self._stages[keep] = self._stage(keep, rows[layer] - self._capacity)
                yield past, rows[layer], self._stages[keep]

    def mask(self, attention: gs.Node, stage: Stage) -> None:
        """Give an Attention of ``stage`` its mask over slots."""
        old = attention.inputs[3]
        if not any(old is mask for mask in self._masks.values()):
            key = (stage.keep, id(old))
            if key not in self._masks:
                self._masks[key] = self._make_mask(self._surgery, old, stage, self._call)
            attention.inputs[3] = self._masks[key]

    def close(self) -> None:
        """Give what asked for the new text's part of ``text_mask`` the slots behind ``past_text``."""
        self._surgery.graph.cleanup()
        for node in self._ends:
            if node.outputs and self._surgery.is_read(node.outputs[0]):
                order = self._inputs[graph_io.ORDER]
                self._surgery.replace(node.outputs[0], _new_text(self._surgery, order, self._call))

    def _stage(self, keep: int, visual: int) -> Stage:
        """Where new rows go in a layer with ``visual`` slots of visual rows."""
        new = self._surgery.emit("Mul", [self._call.groups, [keep]])[0]
        room = self._surgery.emit("Sub", [[visual], new])[0]
        return Stage(keep, visual, self._surgery.emit("Add", [room, self._call.past_text])[0])


def joined(past: gs.Tensor) -> tuple[gs.Tensor, gs.Tensor]:
    """Past and new rows side by side, and the new ones.

    Raises:
        CheckFailed: They are not joined once.
    """
    joins = [node for node in readers(past, "Concat") if node.inputs[0] is past]
    if len(joins) != 1:
        raise CheckFailed("a cache is not joined to new rows once", where=past.name)
    return joins[0].outputs[0], joins[0].inputs[1]


def _new_text(surgery: Surgery, order: gs.Tensor, call: Call) -> gs.Variable:
    """Which of the new text is no padding, bool [B, T]."""
    columns, first = counted(surgery, order), surgery.emit("Unsqueeze", [call.past_text, [1]])[0]
    index = surgery.emit("Add", [first, columns])[0]
    return surgery.typed("GatherElements", [call.text_mask, index], np.dtype(np.bool_), order.shape, axis=1)


def counted(surgery: Surgery, rows: gs.Tensor) -> gs.Tensor:
    """0, 1, ... for each row of [B, S]: int64 [S]."""
    length = surgery.emit("Shape", [rows], start=1, end=2)[0]
    count = surgery.emit("Squeeze", [length, [0]])[0]
    return surgery.emit("Range", [surgery.constant(0), count, surgery.constant(1)])[0]


def slot_mask(
    surgery: Surgery,
    old: gs.Tensor,
    keys_of: Callable[[gs.Tensor, gs.Tensor | None], tuple[gs.Tensor, gs.Tensor | None]],
    count: int | None = None,
) -> gs.Tensor:
    """Bool [B, 1, Q, K] in place of the mask ``old`` over past and new rows: a key's order is not greater.

    A sliding window stays beside that: it compares places, which are of slots as well. So do the two sides of tokens
    that are kept apart.

    Args:
        surgery: Where nodes go.
        old: Of the layers that share a stage.
        keys_of: From order ids int64 [B, S] and sides fp32 [B, S] of the new rows (None where there are none) to those
            of all keys [B, K]; a slot that nothing may see has the largest order.
        count: K, where it is fixed.
    """
    cut = up(old, "Slice")
    whole, sides = without_sides(strip(old, "Slice"))
    causal, window = mask_parts(whole)
    order, new = orders_of(causal)
    keys, key_sides = keys_of(new, sides)
    across = surgery.emit("Unsqueeze", [keys, [1, 2]])[0]
    down = surgery.emit("Unsqueeze", [order, [1, 3]])[0]
    mask = surgery.emit("LessOrEqual", [across, down])[0]
    if window is not None:
        mask = surgery.emit("And", [mask, window])[0]
    if sides is not None and key_sides is not None:
        mask = surgery.emit("And", [mask, unparted(surgery, sides, key_sides)])[0]
    if cut is not None:
        mask = surgery.emit("Slice", [mask, *cut.inputs[1:]])[0]
    mask.dtype = np.dtype(np.bool_)
    mask.shape = [*list(old.shape)[:3], count] if old.shape is not None else None
    return mask


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
