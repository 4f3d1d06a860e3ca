"""Rows in slots of a device's caches: they join with their whole prompt, and leave their slot to others.

Keys and values stay on the device, whatever the number of a row's pictures. Follows ``rows.RowGroup``.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from luvc_export.bundle.adapters.peft_folder import Adapter
from luvc_export.core import graph_io
from luvc_export.errors import UsageError
from luvc_export.runtime.backend import DeviceSampler, PendingRows, RowBackend, RowToken
from luvc_export.runtime.call_times import Part, engine_of
from luvc_export.runtime.generation.rows import Row, one_more
from luvc_export.runtime.graphs import Graphs, kept_tokens
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.state import Passage, VisualFeatures


class Slot(NamedTuple):
    """Where a row's caches are, where the first token of its answer stands, and what is beside the weights for it."""

    number: int
    position: int
    order: int
    adapter: Adapter | None = None

    def token(self, index: int, token: int | None) -> RowToken:
        """Token ``index`` of the answer as the decoder takes it; None: the one that the step before chose."""
        return RowToken(token, self.position + index, self.order + index)


class SlotStep(NamedTuple):
    """What running prompts gave: logits of each row's last token float32 [B, vocab], kept tokens [B, G, keep]."""

    logits: NDArray[np.float32]
    kept: dict[int, NDArray[np.int64]]


class SlotRows:
    """All rows of one plan. One thread calls it.

    Where every row takes the most likely token, the step after is on its way before a step's tokens are read.

    Args:
        graphs: Run the plan.

    Raises:
        UsageError: Their back-end takes no rows.
    """

    def __init__(self, graphs: Graphs) -> None:
        backend = graphs.backend
        if not isinstance(backend, RowBackend):
            name = getattr(backend, "name", type(backend).__name__)
            raise UsageError("this back-end takes no rows that join and leave", where=f"backend {name}")
        self._graphs, self._slots = graphs, backend.open_rows()
        self._samples = isinstance(backend, DeviceSampler) and backend.samples
        self._places: dict[Row, Slot] = {}
        self._ahead: tuple[PendingRows, dict[Row, Slot]] | None = None
        self._read_at = 0.0

    @property
    def rows(self) -> list[Row]:
        """Those that have a slot."""
        return [*self._places]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's caches."""
        return self._slots.row_bytes

    def slot(self, row: Row) -> int:
        """Which slot a row has."""
        return self._places[row].number

    def room(self, request: Request) -> int:
        """How many prompts of so many images and so much text may join now, in one call."""
        if not self.takes([request]):
            return 0
        images = len(request.images)
        return self._slots.room(images // self._graphs.plan.sharing.images, len(request.token_ids) - images)

    def takes(self, requests: Sequence[Request]) -> bool:
        """Whether the adapters of prompts may be in one step with those of the rows; one alone always may."""
        asked = [*(slot.adapter for slot in self._places.values()), *(request.adapter for request in requests)]
        adapters = dict.fromkeys(adapter for adapter in asked if adapter is not None)
        return len(adapters) < 2 or sum(adapter.rank for adapter in adapters) <= self._slots.ranks

    def fits(self, request: Request, answers: int) -> bool:
        """Whether so many answers to a prompt may join now. An empty batch takes what there is, or says why not."""
        if not self._places:
            return True
        return self.room(request) > 0 and len(self._places) + answers <= self._slots.capacity

    def budget(self, request: Request, wanted: int) -> int:
        """Tokens an answer may have: ``wanted``, or what the slots still hold."""
        room = self._slots.text_capacity - (len(request.token_ids) - len(request.images))
        return max(1, min(wanted, room))

    def prefill(self, rows: Sequence[Row], passages: Sequence[Passage], seen: VisualFeatures) -> SlotStep:
        """Run prompts of equally many images, ``seen``, at most ``room``, and give their rows slots.

        Raises:
            UsageError: They do not fit.
            MachineError: There is no memory for the slots.
        """
        layouts, feeds = self._graphs.feeds(passages, seen)
        begin = perf_counter()
        numbers, out = self._slots.join(feeds | self._graphs.beside([passage.adapter for passage in passages]))
        self._note("prompt", begin)
        for row, number, layout, passage in zip(rows, numbers, layouts, passages, strict=True):
            self._places[row] = Slot(number, layout.next_position, layout.next_order, passage.adapter)
        return SlotStep(np.asarray(out[graph_io.LOGITS])[:, -1], kept_tokens(self._graphs.plan, out))

    def change(self, leaving: Sequence[Row], joining: Sequence[Row]) -> None:
        """See ``RowGroup``; who joins has a slot since its prefill."""
        for row in leaving:
            if row in self._places:
                self._slots.leave(self._places.pop(row).number)

    def step(self) -> list[Row]:
        """See ``RowGroup``: those that were there when this step began, and still are."""
        if self._ahead is not None and self._places.keys().isdisjoint(self._ahead[1]):
            self._ahead = None
        if not self._places:
            return []
        begin = perf_counter() if self._ahead is None else self._read_at
        pending, places = self._ahead or self._start(chosen=False)
        self._ahead = None
        chosen = self._samples and self._slots.holds_chosen([slot.number for slot in places.values()])
        if chosen and places == self._places and all(not row.chooser.wants_logits and one_more(row) for row in places):
            self._ahead = self._start(chosen=True)
        steps = pending.read()
        self._note("step", begin)
        stepped = [row for row in places if row in self._places]
        for row in stepped:
            row.take(steps[places[row].number])
        return stepped

    def _note(self, part: Part, begin: float) -> None:
        """A call that has been read: one that was under way before the call before it was, since that was."""
        self._read_at = perf_counter()
        clock, backend = self._graphs.clock, self._graphs.backend
        clock.add(part, engine_of(backend, {}, None), self._read_at - begin)

    def _start(self, chosen: bool) -> tuple[PendingRows, dict[Row, Slot]]:
        """Put a step on its way: with the tokens there are, or with those that the step under way is choosing."""
        tokens = {
            slot.number: slot.token(len(row.chooser.ids) - (not chosen), None if chosen else row.chooser.newest)
            for row, slot in self._places.items()
        }
        logits = any(row.chooser.wants_logits for row in self._places)
        adapters: list[Adapter | None] = [None] * (1 + max(tokens))
        for slot in self._places.values():
            adapters[slot.number] = slot.adapter
        return self._slots.step(tokens, logits, self._graphs.beside(adapters)), dict(self._places)
