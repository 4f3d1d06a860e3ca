"""Conversations whose KV caches are values that no call changes: rows that joined one by one share the calls of a step.

A layer's cache of a row is [visual | text]. Rows of a call have equally many visual rows (same plan, equally many
pictures), and their texts are padded on the right to the longest; the graph's ``text_mask`` hides padding, drafted
tokens that were rejected, and slots that a row had no token for. Whoever comes or goes has the texts packed again. Rows
that have left a sliding window (``streams.windows``) are missing in front, or between the two: the mask is read from
its end.

Where caches cannot be packed (``Capabilities.host_caches``) every call that joined keeps a batch of its own, and a row
that has left runs along until the others have.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.shapes import State as StateKind
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.host.windows import NOWHERE, real_rows
from luvc_export.runtime.model import (
    DEVICE_CHOICE,
    Array,
    Cache,
    Joined,
    PendingStep,
    PendingToken,
    Slots,
    StepResult,
    TokensPrompt,
)
from luvc_export.runtime.state import RowsState, State

#: Masked places that a row may carry before the caches are packed: packing copies them, and a step reads them.
MOST_MASKED = 48
#: In the place of the slot of a row that has left.
_LEFT = -1


@dataclass
class _Fed:
    """A step that has run: the caches after it, tokens fed to each row at most, and how many of each row's stand."""

    cache: Cache
    width: int
    accepted: NDArray[np.int64]


@dataclass(eq=False)
class _Batch:
    """Rows that share calls: the slot of each, where they stand, and the step whose tokens are not settled yet.

    ``chosen`` is the token that the device picked at the last step, which may still be on its way.
    """

    slots: list[int]
    state: RowsState
    groups: int
    fed: _Fed | None = None
    chosen: PendingToken | None = None


@dataclass(frozen=True)
class _Step:
    """``PendingStep``: what has ended, and tokens that the device picks."""

    results: dict[int, StepResult]
    picked: dict[int, PendingToken]

    def read(self) -> dict[int, StepResult]:
        """See ``PendingStep``."""
        return self.results | {slot: StepResult(*token.read()) for slot, token in self.picked.items()}


class HostSlots:
    """See ``model.Slots``.

    Args:
        graphs: Run the plan.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs, self._can = graphs, graphs.backend.capabilities
        self._batches: list[_Batch] = []
        self._next = 0

    @property
    def held(self) -> Collection[int]:
        """See ``Slots.held``."""
        return [slot for batch in self._batches for slot in batch.slots if slot != _LEFT]

    def room(self, prompts: Sequence[TokensPrompt]) -> int:
        """See ``Slots.room``: rows of a call are bounded, and where steps are not shared one call's rows are all."""
        if self._can.rows is None:
            return len(prompts)
        held = len(self.held)
        free = self._can.rows - held if self._can.shares_steps else self._can.rows * (not held)
        return max(0, min(free, len(prompts)))

    def answer_room(self, text: int) -> int | None:
        """See ``Slots.answer_room``: caches grow."""
        return None

    def join(self, prompts: Sequence[TokensPrompt]) -> list[Joined]:
        """See ``Slots.join``: a call for each number of images."""
        joined: dict[int, Joined] = {}
        batches: list[_Batch] = []
        for images in dict.fromkeys(prompt.images for prompt in prompts):
            members = [at for at, prompt in enumerate(prompts) if prompt.images == images]
            step = self._graphs.prefill([prompts[at] for at in members])
            slots = [self._next + place for place in range(len(members))]
            self._next += len(members)
            batches.append(_Batch(slots, step.state, self._graphs.plan.sharing.groups(images)))
            for place, at in enumerate(members):
                kept = {layer: indices[place] for layer, indices in step.kept.items()}
                joined[at] = Joined(slots[place], step.logits[place], kept)
        self._batches += batches
        return [joined[at] for at in range(len(prompts))]

    def restore(self, snapshot: State) -> int:
        """See ``Slots.restore``."""
        slot, mask = self._next, np.ones((1, snapshot.past_text), np.bool_)
        places = np.array([snapshot.next_position], np.int64), np.array([snapshot.next_order], np.int64)
        state = RowsState(snapshot.cache, mask, *places, (snapshot.adapter,))
        self._batches.append(_Batch([slot], state, snapshot.groups))
        self._next += 1
        return slot

    def extend(self, slot: int, prompt: TokensPrompt) -> Joined:
        """See ``Slots.extend``: the row runs alone, and shares calls again from the next step on."""
        step = self._graphs.run(prompt.token_ids, prompt.features, self.snapshot(slot), blocks=prompt.blocks)
        self.leave(slot)
        again = self.restore(step.state)
        batch = self._batch(again)
        batch.slots[batch.slots.index(again)] = slot
        return Joined(slot, step.logits[0, -1], step.kept)

    def step(self, tokens: Mapping[int, Sequence[int]], logits: bool = True) -> PendingStep:
        """See ``Slots.step``: a call for each batch, which has ended when this returns unless the device picks tokens.

        A call that fails ends the rows of its batch alone (``StepResult.failed``).
        """
        results = self._pack()
        picked: dict[int, PendingToken] = {}
        for batch in self._batches:
            rows = [slot for slot in batch.slots if slot != _LEFT and slot not in results]
            if not rows:
                continue
            try:
                if self._can.picks_tokens and not logits and len(batch.slots) == 1:
                    picked[rows[0]] = self._pick(batch, tokens[rows[0]])
                else:
                    results |= self._run(batch, tokens)
            except Exception as error:
                results |= {slot: StepResult(None, None, failed=error) for slot in rows}
        return _Step(results, picked)

    def _run(self, batch: _Batch, tokens: Mapping[int, Sequence[int]]) -> dict[int, StepResult]:
        fed = [list(tokens[slot]) if slot != _LEFT else [0] for slot in batch.slots]
        values, cache = self._graphs.verify(fed, batch.state)
        batch.fed = _Fed(cache, max(map(len, fed)), np.array([len(row) for row in fed], np.int64))
        batch.chosen = None
        rows = enumerate(batch.slots)
        return {slot: StepResult(None, None, values[row, : len(fed[row])]) for row, slot in rows if slot != _LEFT}

    def _pick(self, batch: _Batch, tokens: Sequence[int]) -> PendingToken:
        """One token of the only row, which the device chooses; the next step may be on its way before it is read."""
        before = batch.chosen if tokens == DEVICE_CHOICE else tokens[0]
        assert before is not None
        token, cache = self._graphs.sample(before, batch.state)
        batch.chosen, batch.fed = token, _Fed(cache, 1, np.ones(1, np.int64))
        return token

    def accept(self, slot: int, count: int) -> None:
        """See ``Slots.accept``."""
        batch = self._batch(slot)
        assert batch.fed is not None
        batch.fed.accepted[batch.slots.index(slot)] = count

    def can_choose(self, slots: Collection[int]) -> bool:
        """See ``Slots.can_choose``."""
        batches = [batch for batch in self._batches if not set(slots).isdisjoint(batch.slots)]
        return bool(batches) and all(batch.chosen is not None for batch in batches) and {*slots} == {*self.held}

    def snapshot(self, slot: int) -> State:
        """See ``Slots.snapshot``: no call changes a cache, so a row that is alone and unmasked is not copied."""
        batch = self._batch(slot)
        self._settle(batch)
        state, row = batch.state, batch.slots.index(slot)
        if len(batch.slots) > 1 or not state.text_mask.all():
            state = self._packed([(batch, [row])])
            row = 0
        place = int(state.positions[row]), int(state.orders[row])
        return State(state.cache, state.text_mask.shape[1], *place, state.adapters[row], batch.groups)

    def leave(self, slot: int) -> None:
        """See ``Slots.leave``: its rows go when the others are packed next."""
        batch = self._batch(slot)
        batch.slots[batch.slots.index(slot)] = _LEFT
        if all(one == _LEFT for one in batch.slots):
            self._batches.remove(batch)

    def nbytes(self, slot: int) -> float:
        """See ``Slots.nbytes``."""
        batch = self._batch(slot)
        cache = batch.state.cache if batch.fed is None else batch.fed.cache
        return float(cache.nbytes) / len(batch.slots)

    def _batch(self, slot: int) -> _Batch:
        return next(batch for batch in self._batches if slot in batch.slots)

    def _settle(self, batch: _Batch) -> None:
        """Let accepted tokens of the last step stand, mask the others, and let rows leave their sliding windows."""
        fed, batch.fed = batch.fed, None
        if fed is None or not fed.accepted.any():  # the caches before the step are still there
            return
        state = rolled_back(batch.state, fed.cache, fed.width, fed.accepted)
        batch.state = replace(state, cache=self._graphs.windows.left(fed.cache, state.text_mask, state.orders))
        mask = batch.state.text_mask  # places behind the longest row's tokens, which no packing leaves
        if mask.shape[1] - mask.sum(1).max() > MOST_MASKED:
            batch.state = self._packed([(batch, range(len(batch.slots)))])

    def _pack(self) -> dict[int, StepResult]:
        """Settle all rows; rows with equally many groups of images come into one batch, rows that left go.

        Returns:
            Rows for whose caches there was no memory, ``failed``.
        """
        failed: dict[int, StepResult] = {}
        for groups in dict.fromkeys(batch.groups for batch in self._batches):
            parts = [batch for batch in self._batches if batch.groups == groups]
            try:
                for batch in parts:
                    self._settle(batch)
                if self._can.host_caches and self._can.rows != 1:
                    self._merge(parts)
            except Exception as error:
                slots = [slot for batch in parts for slot in batch.slots if slot != _LEFT]
                failed |= {slot: StepResult(None, None, failed=error) for slot in slots}
        return failed

    def _merge(self, parts: Sequence[_Batch]) -> None:
        """Have the rows of batches with equally many groups in one, without those that left."""
        if len(parts) == 1 and _LEFT not in parts[0].slots:
            return
        staying = [(batch, [row for row, slot in enumerate(batch.slots) if slot != _LEFT]) for batch in parts]
        slots = [batch.slots[row] for batch, rows in staying for row in rows]
        packed = _Batch(slots, self._packed(staying), parts[0].groups)
        self._batches = [batch for batch in self._batches if batch not in parts] + [packed]

    def _packed(self, parts: Sequence[tuple[_Batch, Sequence[int]]]) -> RowsState:
        """Some rows of several batches as the rows of one."""
        rows: list[CachedRow] = []
        positions, orders, adapters = [], [], []
        arrays: dict[int, list[Array]] = {}  # answers to one question share their caches
        first = self._graphs.backend.for_steps(parts[0][0].state.cache)
        for batch, members in parts:
            state = batch.state
            if id(state.cache) not in arrays:
                arrays[id(state.cache)] = self._graphs.backend.for_steps(state.cache).arrays()
            rows += [CachedRow(arrays[id(state.cache)], row, state.text_mask[row]) for row in members]
            positions += [state.positions[row] for row in members]
            orders += [state.orders[row] for row in members]
            adapters += [state.adapters[row] for row in members]
        packed, mask = pack_texts(rows, first.states)
        places = np.array(positions, np.int64), np.array(orders, np.int64)
        return RowsState(first.like(packed), mask, *places, tuple(adapters))


def open_slots(graphs: Graphs, several: bool) -> Slots:
    """Room for conversations, empty: for ``several`` in the engine's own memory, where it has slots there."""
    slots = graphs.backend.open_slots(graphs) if several else None
    return HostSlots(graphs) if slots is None else slots


class CachedRow(NamedTuple):
    """A row in a cache of several.

    Args:
        arrays: States in graph order, [B, ...].
        row: Which of the B rows it is.
        mask: Which of its text places hold a token, bool [P].
    """

    arrays: Sequence[Array]
    row: int
    mask: NDArray[np.bool_]


def pack_texts(parts: Sequence[CachedRow], kinds: Sequence[StateKind]) -> tuple[list[Array], NDArray[np.bool_]]:
    """Rows of several caches as one cache with the texts packed to the left.

    Args:
        parts: The rows.
        kinds: What their arrays are.

    Returns:
        Arrays [len(parts), ...], those that grow with visual + longest cached rows, and the mask bool
        [len(parts), longest]. Where rows leave a window, one from whose cache more have left than from the others' has
        zeros in their stead, out of every sight.
    """
    slots = [np.flatnonzero(part.mask) for part in parts]
    longest = max(map(len, slots))
    packed, leaving = [], {kind.layer for kind in kinds if kind.window is not None}
    for number, kind in enumerate(kinds):
        sources = [part.arrays[number][part.row] for part in parts]
        if kind.axis is None:
            packed.append(np.stack(sources))
            continue
        axis = kind.axis - 1
        real = [real_rows(source.shape[axis], part.mask[None])[0] for source, part in zip(sources, parts, strict=True)]
        before = [int(rows.sum()) - len(text) for rows, text in zip(real, slots, strict=True)]
        most = max(before)
        if kind.layer not in leaving and min(before) != most:
            raise AssertionError(f"rows of {min(before)} and {most} visual tokens")
        fill = NOWHERE if kind.window is not None else 0
        room = np.full((len(parts), *kind.sizes(1, most + longest)[1:]), fill, sources[0].dtype)
        for row, source, rows, ahead, text in zip(room, sources, real, before, slots, strict=True):
            into, own = np.moveaxis(row, axis, 0), np.moveaxis(source, axis, 0)
            into[most - ahead : most + len(text)] = own if rows.all() else own[rows]
        packed.append(room)
    return packed, np.arange(longest) < np.array([len(text) for text in slots])[:, None]


def rolled_back(state: RowsState, cache: Cache, width: int, kept: NDArray[np.int64]) -> RowsState:
    """Where rows stand after a call that fed ``width`` tokens a row, of which the first ``kept`` count.

    Args:
        state: Before the call.
        cache: After it.
        width: Tokens fed, those that filled rows up included.
        kept: Of each row, int64 [B].
    """
    mask = np.concatenate([state.text_mask, np.arange(width) < kept[:, None]], 1)
    return RowsState(cache, mask, state.positions + kept, state.orders + kept, state.adapters)
