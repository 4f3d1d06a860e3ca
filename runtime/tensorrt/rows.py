"""Conversations side by side on one decoder engine: rows join, take a token a step, and leave their slot to others.

A step runs the slots up to the last one that is taken; a row that nobody holds runs along on a token of padding. Where
each row's keys and values lie is ``row_caches``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from luvc_export.bundle.manifest import EngineEntry
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.runtime.backend import Array, RowStep, RowToken
from luvc_export.runtime.tensorrt.cache_memory import CacheMemory
from luvc_export.runtime.tensorrt.call import check_room, typed
from luvc_export.runtime.tensorrt.decoder import TrtDecoder
from luvc_export.runtime.tensorrt.execution_slot import Call
from luvc_export.runtime.tensorrt.row_caches import Held, RowCaches

#: Padding: after everything in logical order.
_LAST = 2**40


@dataclass(frozen=True)
class TrtPendingRows:
    """``PendingRows`` of engines: a call, and the slots whose rows it took."""

    call: Call
    slots: tuple[int, ...]

    def read(self) -> dict[int, RowStep]:
        """See ``PendingRows.read``."""
        outputs = self.call.read()
        logits = outputs.get(graph_io.LOGITS)
        if graph_io.NEXT_TOKEN not in outputs:
            assert logits is not None
            best = logits[:, -1].argmax(1)
            rows = {slot: logits[slot, -1] for slot in self.slots}
            return {slot: RowStep(int(best[slot]), float(row.max()), row) for slot, row in rows.items()}
        tokens, largest = outputs[graph_io.NEXT_TOKEN], outputs[graph_io.NEXT_LOGIT]
        return {
            slot: RowStep(int(tokens[slot, 0]), float(largest[slot, 0]), None if logits is None else logits[slot, -1])
            for slot in self.slots
        }


class TrtRows:
    """``Rows`` of an engine built with ``--batch``. They outlive engines that are unloaded and loaded again.

    Args:
        decoder: The decoder that runs the engine now, loaded if it is not.
        open_caches: Takes the memory in which keys and values of the rows lie: when one joins.
        memory: Whose blocks that are.
        entry: What the manifest says of the engines.
        plan: Says how many images share a budget.
        row_bytes: Of a row's caches.
    """

    def __init__(
        self,
        decoder: Callable[[], TrtDecoder],
        open_caches: Callable[[], RowCaches],
        memory: CacheMemory,
        entry: EngineEntry,
        plan: Plan,
        row_bytes: int,
    ) -> None:
        self._decoder, self._open_caches, self._memory = decoder, open_caches, memory
        self._entry, self._plan, self._row_bytes = entry, plan, row_bytes
        self._caches: RowCaches | None = None
        self._held: dict[int, Held] = {}
        self._shape = (1, 1)
        self._chosen: tuple[int, tuple[int, ...]] | None = None

    @property
    def capacity(self) -> int:
        """See ``Rows.capacity``."""
        return self._entry.batch

    @property
    def text_capacity(self) -> int:
        """See ``Rows.text_capacity``."""
        return self._entry.text_capacity

    @property
    def ranks(self) -> int:
        """See ``Rows.ranks``."""
        widest = self._entry.decoder.profiles[0].maximum.get(graph_io.LORA_ROWS, (0, 0))
        return widest[1]

    @property
    def row_bytes(self) -> int:
        """See ``Rows.row_bytes``."""
        return self._row_bytes

    def room(self, groups: int, text: int) -> int:
        """See ``Rows.room``. In a batch with others rows join one by one; an empty one takes as many as it holds."""
        if groups > self._entry.groups or text > self._entry.text_capacity:
            return 0
        if not self._held or self._caches is None:
            return self.capacity
        return int(len(self._held) < self.capacity and self._caches.takes(groups, self._held))

    def join(self, feeds: Mapping[str, Array]) -> tuple[list[int], dict[str, Array]]:
        """See ``Rows.join``.

        Raises:
            MachineError: There is no memory for the caches of all rows.
        """
        (count, longest), groups = feeds[graph_io.INPUT_IDS].shape, feeds[graph_io.VISUAL_EMBEDS].shape[1]
        check_room(self._entry, None, groups, longest)
        lengths = [int(length) for length in feeds[graph_io.TEXT_MASK].sum(1)]
        if count > self.room(groups, longest):
            raise UsageError(
                "so many rows cannot join now",
                where="rows",
                got=f"{count} rows of {groups} groups of images beside {len(self._held)}",
                expected=f"at most {self.room(groups, longest)}",
                fix="let rows end first",
            )
        free = [slot for slot in range(self.capacity) if slot not in self._held][:count]
        joining = {slot: Held(length, groups) for slot, length in zip(free, lengths, strict=True)}
        decoder = self._decoder()
        self._caches = self._caches or self._open_caches()
        outputs = self._caches.join(decoder, feeds, self._held, joining)
        self._held |= joining
        self._shape = (feeds[graph_io.POSITION_IDS].shape[0], feeds[graph_io.VISUAL_EMBEDS].shape[-1])
        self._chosen = None
        return free, outputs

    def holds_chosen(self, slots: Collection[int]) -> bool:
        """See ``Rows.holds_chosen``."""
        return self._chosen == (self._memory.number, tuple(sorted(slots)))

    def step(
        self, tokens: Mapping[int, RowToken], logits: bool = False, beside: Mapping[str, Any] | None = None
    ) -> TrtPendingRows:
        """See ``Rows.step``."""
        if set(tokens) != set(self._held) or not tokens:
            raise UsageError(
                "a step takes a token of every row", where="rows", got=sorted(tokens), expected=sorted(self._held)
            )
        for slot, held in self._held.items():
            if held.text >= self._entry.text_capacity:
                raise UsageError(
                    "the engines do not hold so many text tokens",
                    where=f"row {slot}",
                    got=f"{held.text} held, 1 more",
                    expected=f"at most {self._entry.text_capacity}",
                    fix=f"luvc-export build --target {self._entry.target} with more of them, or ask less",
                )
        assert self._caches is not None
        batch, decoder = max(self._held) + 1, self._decoder()
        resident = {}
        feeds = self._feeds(tokens, batch) | dict(beside or {})
        if all(item.token is None for item in tokens.values()):
            if not self.holds_chosen(tokens):
                raise UsageError("the tokens that the step before chose are gone", where="rows", fix="name their ids")
            resident[graph_io.INPUT_IDS] = self._memory.newest(batch)
            del feeds[graph_io.INPUT_IDS]
        caches, cache_feeds = self._caches.step(self._held, batch)
        front = decoder.samples and not logits
        arrays = typed(self._entry, feeds | cache_feeds)
        visual = {graph_io.VISUAL_EMBEDS: feeds[graph_io.VISUAL_EMBEDS]}
        call = decoder.enqueue(arrays | visual, resident, caches, True, front)
        self._held = {slot: Held(held.text + 1, held.groups) for slot, held in self._held.items()}
        self._chosen = (self._memory.number, tuple(sorted(tokens))) if decoder.samples else None
        return TrtPendingRows(call, tuple(sorted(tokens)))

    def leave(self, slot: int) -> None:
        """See ``Rows.leave``."""
        assert self._caches is not None
        self._caches.leave(slot, self._held.pop(slot))
        self._chosen = None

    def give_back(self) -> None:
        """Lease no memory where no row is; the next one that joins takes it again."""
        if not self._held:
            self._caches = None

    def _feeds(self, tokens: Mapping[int, RowToken], batch: int) -> dict[str, Array]:
        """Decoder inputs of one token a row, masks and caches left out."""
        axes, hidden = self._shape
        ids, position, order = np.zeros((batch, 1), np.int64), np.zeros(batch, np.float32), np.full(batch, _LAST)
        for slot, item in tokens.items():
            ids[slot], position[slot], order[slot] = item.token or 0, item.position, item.order
        return {
            graph_io.VISUAL_EMBEDS: np.zeros((batch, 0, self._plan.span_tokens, hidden), np.float32),
            graph_io.INPUT_IDS: ids,
            graph_io.VISUAL_POSITION_IDS: np.zeros((axes, batch, 0), np.float32),
            graph_io.POSITION_IDS: np.broadcast_to(position[None, :, None], (axes, batch, 1)).copy(),
            graph_io.VISUAL_ORDER: np.zeros((batch, 0), np.int64),
            graph_io.ORDER: order[:, None].astype(np.int64),
            graph_io.VISUAL_PADDING: np.zeros((batch, 0, self._plan.span_tokens), np.bool_),
            graph_io.LOGITS_INDICES: np.zeros((batch, 1), np.int64),
        }
