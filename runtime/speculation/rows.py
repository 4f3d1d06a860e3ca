"""Rows that take several tokens a step: each is fed its newest token and a draft behind it, and keeps what agrees.

Every token is still chosen by the row's own ``TokenChooser`` from the logits at its place, one after another; the first
that is not the draft's ends the row's turn. So the tokens are those of plain decoding, drawn ones too: a drafted token
is accepted with the model's own probability of it, and what is drawn in its place has the distribution that rejection
sampling asks for (Leviathan et al., arXiv 2211.17192, where a draft proposes one token for certain). Bias, penalties,
masks, log probabilities, stop strings and budgets see what they always see.

A rejected token lies in the caches until they are packed, masked: it is as if it were padding. Every row keeps its own
count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.backend import Cache, RowStep
from luvc_export.runtime.generation.rows import OneAfterAnother, Row, RowGroup, SharedCalls, row_group
from luvc_export.runtime.generation.sequence import TokenChooser
from luvc_export.runtime.generation.timing import DraftCounts
from luvc_export.runtime.graphs import Graphs
from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.speculation.draft_costs import DraftCosts
from luvc_export.runtime.speculation.draft_length import DraftLength
from luvc_export.runtime.speculation.draft_model import DraftModel
from luvc_export.runtime.speculation.lookup import Drafts, Lookup
from luvc_export.runtime.speculation.request import Speculation
from luvc_export.runtime.state import RowsState, State, Step, VisualFeatures

#: Masked slots that a row may carry before the caches are packed: packing copies them, and a step reads them.
MOST_MASKED = 48


class DraftedCalls(SharedCalls):
    """Rows that share calls of several tokens. Follows ``rows.RowGroup``.

    Args:
        graphs: Run the plan, on a back-end that packs rows.
        speculation: How drafts are made.
        model: What makes them, where that is a smaller model.
        costs: What that costs, and brought before; where there is one.
    """

    def __init__(
        self,
        graphs: Graphs,
        speculation: Speculation,
        model: LoadedPlan | None = None,
        costs: DraftCosts | None = None,
    ) -> None:
        super().__init__(graphs)
        self._speculation, self._model = speculation, model
        self._costs = DraftCosts(0.0, clock=None) if costs is None else costs
        self._drafts: dict[Row, Drafts] = {}
        #: Of the step before, all rows together.
        self.counts = DraftCounts()

    def begin(
        self,
        chooser: TokenChooser,
        step: Step,
        request: Request | None = None,
        seen: VisualFeatures | None = None,
    ) -> Row:
        """See ``OneAfterAnother.begin``."""
        row = Row(chooser, step.state, request, seen)
        row.take(RowStep(step.chosen, None, step.logits[0, -1]))
        self.change([], [row])
        return row

    def state_of(self, row: Row) -> State:
        """Where a row stands that is the only one, nothing masked in its caches."""
        assert self._state is not None and self.rows == [row]
        if not self._state.text_mask.all():
            self._state = self._joined([0], [])
        state = self._state
        assert state is not None
        (adapter,) = state.adapters
        return State(state.cache, state.text_mask.shape[1], int(state.positions[0]), int(state.orders[0]), adapter)

    def change(self, leaving: Sequence[Row], joining: Sequence[Row]) -> None:
        """See ``RowGroup``."""
        super().change(leaving, joining)
        self._drafts = {row: drafts for row, drafts in self._drafts.items() if row in self.rows}

    def step(self) -> list[Row]:
        """See ``RowGroup``. Rows that have ended and not left run along with one token."""
        assert self._state is not None
        stepped, kept = [row for row in self.rows if not row.ended], np.ones(len(self.rows), np.int64)
        certain = [self._certain(row) for row in self.rows]
        drafts = [self._draft(row, known) for row, known in zip(self.rows, certain, strict=True)]
        fed = [[row.chooser.newest, *draft] for row, draft in zip(self.rows, drafts, strict=True)]
        clock, begin = self._costs.now, self._costs.now()
        logits, cache = self._graphs.verify(fed, self._state)
        verified = clock()
        self.counts = DraftCounts()
        for index, row in enumerate(self.rows):
            if row.ended:
                continue
            kept[index] = taken = take_agreeing(row, drafts[index], logits[index])
            known, drafted = len(certain[index]), len(drafts[index])
            self._drafter(row).told(drafted - known, max(0, taken - 1 - known))
            stopped = taken <= drafted and not row.ended
            own = DraftCounts(1, int(drafted > 0), drafted, taken - 1, int(stopped))
            row.drafts = own if row.drafts is None else row.drafts + own
            self.counts += own
            if row.ended:
                self._costs.ended(len(row.chooser.ids))
        chosen, width = clock(), max(map(len, fed))
        state = rolled_back(self._state, cache, width, kept)
        left = self._graphs.windows.left(self._graphs.backend, cache, state.text_mask, state.orders)
        self._state = replace(state, cache=left)
        if masked_slots(self._state) > MOST_MASKED:
            self._state = self._joined(range(len(self.rows)), [])
        if stepped:
            taken_a_row = 1 + self.counts.accepted / len(stepped)
            self._costs.stepped(len(stepped), width - 1, taken_a_row, clock() - chosen + verified - begin)
        return stepped

    def _certain(self, row: Row) -> list[int]:
        """What a grammar leaves no choice about, as far as there is room; what it raises ends the row alone."""
        if row.ended:
            return []
        try:
            return list(row.chooser.certain()[: min(self._speculation.tokens, _room(row))])
        except Exception as error:
            row.failed = error
            return []

    def _draft(self, row: Row, certain: list[int]) -> list[int]:
        """Tokens to try after the newest one; none beyond the budget, whose last token needs no draft.

        What making them raises (a smaller model reads the request too) ends the row alone.
        """
        room = min(self._speculation.tokens, _room(row)) - len(certain)
        if row.ended or room <= 0:
            return certain
        try:
            return [*certain, *self._drafter(row).propose(row.chooser.ids, room, certain)]
        except Exception as error:
            row.failed = error
            return []

    def _drafter(self, row: Row) -> Drafts:
        if row not in self._drafts:
            most = self._speculation.tokens
            if self._model is not None and row.request is not None:
                length = DraftLength(most, self._costs)
                self._drafts[row] = DraftModel(self._model, row.request, length, row.seen, self._running)
            else:
                self._drafts[row] = Lookup(row.chooser.prompt, most, {self._graphs.manifest.prompt.image_token_id})
        return self._drafts[row]

    def _running(self) -> int:
        """Rows that have not ended."""
        return sum(not row.ended for row in self.rows)


def _room(row: Row) -> int:
    return row.chooser.budget - len(row.chooser.ids) - 1


def take_agreeing(row: Row, draft: Sequence[int], logits: NDArray[np.float32]) -> int:
    """Let a row choose its tokens as long as each is the one drafted for its place, and the one after.

    Args:
        row: Takes them; it may end, or fail, at any of them.
        draft: What its call was fed after the newest token.
        logits: After each token fed, float32 [T, vocab] with T above ``len(draft)``.

    Returns:
        How many it took: as many of the tokens fed belong to the answer, or one where it failed at the first.
    """
    for place in range(len(draft) + 1):
        row.take(RowStep(None, None, logits[place]))
        if row.ended or place == len(draft) or row.chooser.newest != draft[place]:
            return place + 1
    raise AssertionError("the last place returns")


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


def masked_slots(state: RowsState) -> int:
    """Slots of text that no packing would leave: behind the longest row's tokens."""
    return int(state.text_mask.shape[1] - state.text_mask.sum(1).max())


def single_row(loaded: LoadedPlan) -> OneAfterAnother | DraftedCalls:
    """A group for one answer of a plan; which kind follows from whether it drafts."""
    if loaded.speculation is None:
        return OneAfterAnother(loaded.graphs)
    return DraftedCalls(loaded.graphs, loaded.speculation, loaded.draft_model, loaded.draft_costs)


def shared_calls(loaded: LoadedPlan) -> SharedCalls:
    """A group of rows that share calls."""
    if loaded.speculation is None:
        return SharedCalls(loaded.graphs)
    return DraftedCalls(loaded.graphs, loaded.speculation, loaded.draft_model, loaded.draft_costs)


def many_rows(loaded: LoadedPlan) -> RowGroup:
    """A group for the rows of a server."""
    return row_group(loaded.graphs) if loaded.speculation is None else shared_calls(loaded)
