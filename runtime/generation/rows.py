"""The one row loop: a prompt is run (prefill), then every step gives each row a token (step, choose, stop).

``Graphs`` computes, a ``TokenChooser`` chooses and stops, and a group of rows is what stands between: which rows share
a call, where their caches lie, and which token is computed ahead. Whoever answers, makes rows of prompts that were run
and steps their group until they have ended: ``generate``, ``generate_batch``, a server's rows, comparisons, benches.
Whatever a row's chooser raises ends that row alone.

A layer's cache of a row is [visual | text]. Rows of a call have equally many visual rows (same plan, equally many
pictures), and their texts are padded on the right to the longest; the graph's ``text_mask`` hides padding and the slots
that a row had no token for. Whoever comes or goes has the texts packed again. What has left a window (``windows``) is
missing in front, or between the two: the mask is read from its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.shapes import State as StateKind
from luvc_export.runtime.backend import Array, DeviceSampler, PendingToken, RowPacker, RowStep
from luvc_export.runtime.generation.sequence import TokenChooser
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.state import Passage, RowsState, RowsStep, State, Step, VisualFeatures
from luvc_export.runtime.streams.windows import NOWHERE, real_rows


@dataclass(eq=False)
class Row:
    """An answer in the making.

    Args:
        chooser: Its tokens.
        state: Where all of them but the last are; None while a group has them together with those of other rows.
        request: What it answers, for who drafts by reading it too.
        seen: What its pictures were encoded to, for who drafts with an equal encoder (``LoadedPlan.lent``).
        failed: What ended it, where choosing a token did.
        drafts: How its drafts fared, where its group makes some.
    """

    chooser: TokenChooser
    state: State | None = None
    request: Request | None = None
    seen: VisualFeatures | None = None
    failed: Exception | None = None
    drafts: DraftCounts | None = None

    @property
    def ended(self) -> bool:
        """It takes no more tokens."""
        return self.failed is not None or self.chooser.done

    def take(self, step: RowStep) -> None:
        """Choose a token; whatever goes wrong is ``failed``."""
        try:
            self.chooser.take(step)
        except Exception as error:
            self.failed = error

    def check(self) -> None:
        """Raise what ended it, if anything did."""
        if self.failed is not None:
            raise self.failed


def one_more(row: Row) -> bool:
    """Whether a step is worth computing before the one under way has been read: the budget does not end the row."""
    return len(row.chooser.ids) + 1 < row.chooser.budget


class RowGroup(Protocol):
    """Rows under one plan, about equally many pictures unless the back-end has slots."""

    rows: list[Row]

    def change(self, leaving: Sequence[Row], joining: Sequence[Row]) -> None:
        """Let rows go and come."""

    def step(self) -> list[Row]:
        """Run the decoder once; the rows that got tokens, or failed."""


def row_group(graphs: Graphs) -> RowGroup:
    """Rows that share calls where the back-end can take caches apart, else one answer after another."""
    backend = graphs.backend
    if isinstance(backend, RowPacker) and backend.packs and backend.largest_batch != 1:
        return SharedCalls(graphs)
    return OneAfterAnother(graphs)


class OneAfterAnother:
    """Only the first row gets tokens, until it is done.

    Where the device chooses and the row wants no logits, the step after is under way while the host takes a token. The
    one that is under way when an answer ends was for nothing: it wrote behind the row's state, which never notices.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._samples = isinstance(graphs.backend, DeviceSampler) and graphs.backend.samples
        self.rows: list[Row] = []
        self._ahead: tuple[Row, PendingToken, State] | None = None

    def begin(
        self,
        chooser: TokenChooser,
        step: Step,
        request: Request | None = None,
        seen: VisualFeatures | None = None,
    ) -> Row:
        """Take a row whose prompt was run, and give it its first token; ``request`` and ``seen`` as of ``Row``."""
        row = Row(chooser, step.state, request, seen)
        row.take(RowStep(step.chosen, None, step.logits[0, -1]))
        self.rows.append(row)
        return row

    def state_of(self, row: Row) -> State:
        """Where a row stands."""
        assert row.state is not None
        return row.state

    def change(self, leaving: Sequence[Row], joining: Sequence[Row]) -> None:
        """See ``RowGroup``."""
        self.rows = [row for row in self.rows if row not in leaving] + list(joining)

    def step(self) -> list[Row]:
        """See ``RowGroup``."""
        row = self.rows[0]
        if self._samples and not row.chooser.wants_logits:
            row.take(self._picked(row))
            return [row]
        step = self._graphs.run([row.chooser.newest], state=row.state)
        row.state = step.state
        row.take(RowStep(step.chosen, None, step.logits[0, -1]))
        return [row]

    def _picked(self, row: Row) -> RowStep:
        """The row's state is nobody else's here: the device may write where one that was let go lay."""
        assert row.state is not None
        if self._ahead is not None and self._ahead[0] is row:
            _, token, row.state = self._ahead
        else:
            token, row.state = self._graphs.sample(row.chooser.newest, row.state)
        self._ahead = (row, *self._graphs.sample(token, row.state)) if one_more(row) else None
        return RowStep(*token.read())


class SharedCalls:
    """All rows get a token of one call."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self.rows: list[Row] = []
        self._state: RowsState | None = None

    @property
    def row_bytes(self) -> float:
        """Bytes of a row's share of the caches."""
        assert self._state is not None
        return self._state.cache.nbytes / len(self.rows)

    def prefill(self, rows: Sequence[Row], passages: Sequence[Passage], seen: VisualFeatures | None) -> RowsStep:
        """Run prompts of equally many images, ``seen``, in one call; ``rows`` take their first tokens of it."""
        step = self._graphs.prefill(passages, seen)
        self.rows, self._state = list(rows), step.state
        return step

    def change(self, leaving: Sequence[Row], joining: Sequence[Row]) -> None:
        """See ``RowGroup``."""
        staying = [index for index, row in enumerate(self.rows) if row not in leaving]
        if len(staying) == len(self.rows) and not joining:
            return
        states = [row.state for row in joining if row.state is not None]
        self._state = self._joined(staying, states)
        self.rows = [self.rows[index] for index in staying] + list(joining)
        for row in joining:
            row.state = None

    def step(self) -> list[Row]:
        """See ``RowGroup``. Rows that have ended and not left run along; what is computed for them is thrown away."""
        assert self._state is not None
        step = self._graphs.step([row.chooser.newest for row in self.rows], self._state)
        self._state = step.state
        stepped = {row: index for index, row in enumerate(self.rows) if not row.ended}
        for row, index in stepped.items():
            row.take(RowStep(None, None, step.logits[index]))
        return [*stepped]

    def _joined(self, staying: Sequence[int], states: Sequence[State]) -> RowsState | None:
        """The caches of rows that stay and of those that come, in one."""
        if not staying and not states:
            return None
        positions = [state.next_position for state in states]
        orders = [state.next_order for state in states]
        adapters = [state.adapter for state in states]
        if not staying and len(states) == 1:
            (state,), mask = states, np.ones((1, states[0].past_text), np.bool_)
            return RowsState(state.cache, mask, np.array(positions, np.int64), np.array(orders, np.int64), (*adapters,))
        packer = self._graphs.backend
        assert isinstance(packer, RowPacker)
        parts: list[CachedRow] = []
        if staying and (own := self._state) is not None:
            arrays = packer.unpack(own.cache)
            parts = [CachedRow(arrays, index, own.text_mask[index]) for index in staying]
            positions = [*own.positions[list(staying)], *positions]
            orders = [*own.orders[list(staying)], *orders]
            adapters = [*(own.adapters[index] for index in staying), *adapters]
        once = {id(state): packer.unpack(state.cache) for state in states}  # answers to one question share their state
        parts += [CachedRow(once[id(state)], 0, np.ones(state.past_text, np.bool_)) for state in states]
        arrays, mask = pack_texts(parts, packer.states)
        places = np.array(positions, np.int64), np.array(orders, np.int64)
        return RowsState(packer.pack(arrays), mask, *places, tuple(adapters))


class CachedRow(NamedTuple):
    """A row in a cache of several.

    Args:
        arrays: States in graph order, [B, ...].
        row: Which of the B rows it is.
        mask: Which of its text slots hold a token, bool [P].
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
