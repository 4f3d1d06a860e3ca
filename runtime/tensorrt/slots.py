"""Conversations side by side on one decoder engine: prompts join, take a token a step, and leave their slot to others.

A step runs the slots up to the last one that is taken; a slot that nobody holds runs along on a token of padding. Where
each slot's keys and values lie is ``row_caches``. They stay on the device, whatever the number of a prompt's pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from luvc_export.bundle.adapters.peft_folder import Adapter
from luvc_export.bundle.manifest import EngineEntry
from luvc_export.core import graph_io
from luvc_export.core.plan import Plan
from luvc_export.errors import UsageError
from luvc_export.runtime.call_times import Part
from luvc_export.runtime.graphs import Graphs, kept_tokens
from luvc_export.runtime.model import DEVICE_CHOICE, Array, Joined, StepResult, TokensPrompt
from luvc_export.runtime.state import State
from luvc_export.runtime.tensorrt.cache_memory import CacheMemory
from luvc_export.runtime.tensorrt.call import check_room, typed
from luvc_export.runtime.tensorrt.decoder import TrtDecoder
from luvc_export.runtime.tensorrt.execution_slot import Call
from luvc_export.runtime.tensorrt.row_caches import ConcatRows, Held, InplaceRows, RowCaches

#: Padding: after everything in logical order.
_LAST = 2**40


@dataclass(frozen=True)
class _Place:
    """Where a conversation goes on: rotary position and logical place of its next token, and its LoRA adapter."""

    position: int
    order: int
    adapter: Adapter | None = None


@dataclass(frozen=True)
class _Step:
    """``PendingStep`` of engines: a call, the slots it took, and what notes its time once it has been read."""

    call: Call
    slots: tuple[int, ...]
    note: Callable[[], object]

    def read(self) -> dict[int, StepResult]:
        """See ``PendingStep.read``."""
        outputs = self.call.read()
        self.note()
        logits = outputs.get(graph_io.LOGITS)
        if graph_io.NEXT_TOKEN not in outputs:
            assert logits is not None
            best = logits[:, -1].argmax(1)
            rows = {slot: logits[slot, -1:] for slot in self.slots}
            return {slot: StepResult(int(best[slot]), float(row.max()), row) for slot, row in rows.items()}
        tokens, largest = outputs[graph_io.NEXT_TOKEN], outputs[graph_io.NEXT_LOGIT]
        return {
            slot: StepResult(
                int(tokens[slot, 0]), float(largest[slot, 0]), None if logits is None else logits[slot, -1:]
            )
            for slot in self.slots
        }


class TrtSlots:
    """See ``model.Slots``: of an engine built with ``--batch``; they outlive engines that are unloaded.

    Args:
        graphs: Make the decoder's inputs.
        decoder: The decoder that runs the engine now, loaded if it is not.
        memory: Whose blocks keys and values of the slots lie in; taken when one joins.
        entry: What the manifest says of the engines.
        plan: Says how many rows each layer keeps.
    """

    def __init__(
        self, graphs: Graphs, decoder: Callable[[], TrtDecoder], memory: CacheMemory, entry: EngineEntry, plan: Plan
    ) -> None:
        self._graphs, self._decoder, self._memory = graphs, decoder, memory
        self._entry, self._slot_bytes = entry, memory.kv.nbytes
        self._open_caches = partial(InplaceRows if entry.slots else ConcatRows, memory, entry, plan)
        self._caches: RowCaches | None = None
        self._held: dict[int, Held] = {}
        self._places: dict[int, _Place] = {}
        self._shape = (1, 1)
        self._chosen: tuple[int, tuple[int, ...]] | None = None
        self._read_at = 0.0

    @property
    def held(self) -> Collection[int]:
        """See ``Slots.held``."""
        return self._held.keys()

    @property
    def _ranks(self) -> int:
        """Ranks of the adapters of all slots together, at most; 0 where the engines take none."""
        widest = self._entry.decoder.profiles[0].maximum.get(graph_io.LORA_ROWS, (0, 0))
        return widest[1]

    def room(self, prompts: Sequence[TokensPrompt]) -> int:
        """See ``Slots.room``. Beside others prompts join one by one; empty slots take as many as there are."""
        first = prompts[0]
        groups, count = self._groups(first), 0
        if groups > self._entry.groups or first.text > self._entry.text_capacity:
            return int(not self._held)
        free = self._entry.batch
        if self._held and self._caches is not None:
            free = int(len(self._held) < self._entry.batch and self._caches.takes(groups, self._held))
        for prompt in prompts[:free]:
            if self._groups(prompt) != groups or not self._takes([*prompts[:count], prompt]):
                break
            count += 1
        return count

    def answer_room(self, text: int) -> int | None:
        """See ``Slots.answer_room``."""
        return max(1, self._entry.text_capacity - text)

    def _takes(self, prompts: Sequence[TokensPrompt]) -> bool:
        """Whether the adapters of prompts may be in one step with those that are held; one alone always may."""
        asked = [*(place.adapter for place in self._places.values()), *(prompt.adapter for prompt in prompts)]
        adapters = dict.fromkeys(adapter for adapter in asked if adapter is not None)
        return len(adapters) < 2 or sum(adapter.rank for adapter in adapters) <= self._ranks

    def _groups(self, prompt: TokensPrompt) -> int:
        return self._graphs.plan.sharing.groups(prompt.images)

    def join(self, prompts: Sequence[TokensPrompt]) -> list[Joined]:
        """See ``Slots.join``: prompts of equally many images, as many as there is ``room`` for."""
        layouts, feeds = self._graphs.feeds(prompts, all_logits=self._graphs.every is not None)
        begin = perf_counter()
        (count, longest), groups = feeds[graph_io.INPUT_IDS].shape, feeds[graph_io.VISUAL_EMBEDS].shape[1]
        check_room(self._entry, None, groups, longest)
        if count > self.room(prompts):
            raise UsageError(
                "so many rows cannot join now",
                where="rows",
                got=f"{count} rows of {groups} groups of images beside {len(self._held)}",
                expected=f"at most {self.room(prompts)}",
                fix="let rows end first",
            )
        free = [slot for slot in range(self._entry.batch) if slot not in self._held][:count]
        lengths = [int(length) for length in feeds[graph_io.TEXT_MASK].sum(1)]
        joining = {slot: Held(length, groups) for slot, length in zip(free, lengths, strict=True)}
        decoder = self._decoder()
        self._caches = self._caches or self._open_caches()
        adapters = [prompt.adapter for prompt in prompts]
        out = self._caches.join(decoder, feeds | self._graphs.adapter_inputs(adapters), self._held, joining)
        self._note("prompt", begin)
        self._held |= joining
        self._shape = (feeds[graph_io.POSITION_IDS].shape[0], feeds[graph_io.VISUAL_EMBEDS].shape[-1])
        self._chosen = None
        kept = kept_tokens(self._graphs.plan, out)
        joined, rows = [], self._graphs.rows(out, layouts, feeds)
        for row, (slot, layout, adapter) in enumerate(zip(free, layouts, adapters, strict=True)):
            self._places[slot] = _Place(layout.next_position, layout.next_order, adapter)
            own = {layer: indices[row] for layer, indices in kept.items()}
            joined.append(Joined(slot, rows[row], own))
        return joined

    def can_choose(self, slots: Collection[int]) -> bool:
        """See ``Slots.can_choose``."""
        return self._chosen == (self._memory.number, tuple(sorted(slots)))

    def step(self, tokens: Mapping[int, Sequence[int]], logits: bool = True) -> _Step:
        """See ``Slots.step``: one token of every slot."""
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
        begin, batch, decoder = perf_counter(), max(self._held) + 1, self._decoder()
        adapters = [self._places[slot].adapter if slot in self._places else None for slot in range(batch)]
        resident, feeds = {}, self._feeds(tokens, batch) | self._graphs.adapter_inputs(adapters)
        if all(item == DEVICE_CHOICE for item in tokens.values()):
            if not self.can_choose(tokens):
                raise UsageError("the tokens that the step before chose are gone", where="rows", fix="name their ids")
            resident[graph_io.INPUT_IDS] = self._memory.newest(batch)
            del feeds[graph_io.INPUT_IDS]
        caches, cache_feeds = self._caches.step(self._held, batch)
        front = decoder.samples and not logits
        arrays = typed(self._entry, feeds | cache_feeds)
        visual = {graph_io.VISUAL_EMBEDS: feeds[graph_io.VISUAL_EMBEDS]}
        call = decoder.enqueue(arrays | visual, resident, caches, True, front)
        self._held = {slot: Held(held.text + 1, held.groups) for slot, held in self._held.items()}
        self._places = {
            slot: _Place(place.position + 1, place.order + 1, place.adapter) for slot, place in self._places.items()
        }
        self._chosen = (self._memory.number, tuple(sorted(tokens))) if decoder.samples else None
        return _Step(call, tuple(sorted(tokens)), lambda: self._note("step", max(begin, self._read_at)))

    def accept(self, slot: int, count: int) -> None:
        """See ``Slots.accept``: each step has one token, which stands."""

    def restore(self, snapshot: State) -> int:
        """Not of device slots (``Capabilities.device_slots``)."""
        raise UsageError("conversations of device slots cannot be taken out and restored", where="TensorRT slots")

    def extend(self, slot: int, prompt: TokensPrompt) -> Joined:
        """Not of device slots: see ``restore``."""
        raise UsageError("prompts cannot go on in device slots", where="TensorRT slots")

    def snapshot(self, slot: int) -> State:
        """Not of device slots: see ``restore``."""
        raise UsageError("conversations of device slots cannot be taken out and restored", where="TensorRT slots")

    def leave(self, slot: int) -> None:
        """See ``Slots.leave``."""
        assert self._caches is not None
        self._caches.leave(slot, self._held.pop(slot))
        del self._places[slot]
        self._chosen = None

    def nbytes(self, slot: int) -> float:
        """See ``Slots.nbytes``."""
        return self._slot_bytes

    def give_back(self) -> None:
        """Lease no memory where no conversation is; the next one that joins takes it again."""
        if not self._held:
            self._caches = None

    def _note(self, part: Part, begin: float) -> None:
        """Add the time of a decoder call that has been read; one that was enqueued early counts from then."""
        self._read_at = perf_counter()
        self._graphs.clock.add(part, self._graphs.backend.engine({}, None), self._read_at - begin)

    def _feeds(self, tokens: Mapping[int, Sequence[int]], batch: int) -> dict[str, Array]:
        """Decoder inputs of one token a slot, masks and caches left out."""
        axes, hidden = self._shape
        ids, position, order = np.zeros((batch, 1), np.int64), np.zeros(batch, np.float32), np.full(batch, _LAST)
        span = self._graphs.plan.span_tokens
        for slot, item in tokens.items():
            place = self._places[slot]
            ids[slot], position[slot], order[slot] = item[0] if item else 0, place.position, place.order
        return {
            graph_io.VISUAL_EMBEDS: np.zeros((batch, 0, span, hidden), np.float32),
            graph_io.INPUT_IDS: ids,
            graph_io.VISUAL_POSITION_IDS: np.zeros((axes, batch, 0), np.float32),
            graph_io.POSITION_IDS: np.broadcast_to(position[None, :, None], (axes, batch, 1)).copy(),
            graph_io.VISUAL_ORDER: np.zeros((batch, 0), np.int64),
            graph_io.ORDER: order[:, None].astype(np.int64),
            graph_io.VISUAL_PADDING: np.zeros((batch, 0, span), np.bool_),
            graph_io.LOGITS_INDICES: np.zeros((batch, 1), np.int64),
        }
