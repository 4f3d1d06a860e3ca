"""Drafts by a smaller model: what it would say next, token by token, about the same pictures.

It takes its most likely token each time. A token that the larger model did not choose is given up with the state that
held it: states are never changed, so going back is going on from an earlier one. Where its encoder is the larger one's,
it takes what that one saw (``LoadedPlan.lent``) and reads the prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.speculation.draft_length import DraftLength
from luvc_export.runtime.state import RowsState, VisualFeatures


class DraftModel:
    """Drafts of one answer. Follows ``lookup.Drafts``.

    Args:
        loaded: The smaller model; ``request.check_fits`` has seen it.
        request: What is answered, all of it: read when the first draft is made.
        length: How long drafts are.
        seen: What the larger model's encoder, which is equal, made of all pictures; None where they are encoded here.
        rows: How many share a step of the larger model.
    """

    def __init__(
        self,
        loaded: LoadedPlan,
        request: Request,
        length: DraftLength,
        seen: VisualFeatures | None = None,
        rows: Callable[[], int] = lambda: 1,
    ) -> None:
        self._loaded, self._request, self._length, self._rows = loaded, request, length, rows
        pictures = len(request.images)
        self._seen = seen if pictures and seen is not None and len(seen.positions) == pictures else None
        #: States after so many tokens of the answer, and what those tokens were in the longest of them.
        self._states: list[tuple[int, RowsState]] = []
        self._fed: list[int] = []

    def propose(self, answer: Sequence[int], room: int, certain: Sequence[int] = ()) -> list[int]:
        """See ``lookup.Drafts``."""
        text, draft = [*answer, *certain], list[int]()
        costs, rows = self._length.costs, self._rows()
        begin = costs.now()
        wanted = self._length.next(room, rows, len(answer), begun=bool(self._states))
        if not wanted:
            return draft
        if not self._states:
            begin = costs.now()
            self._states = [(0, self._read())]
            costs.read(rows, costs.now() - begin)
            begin = costs.now()
        count, state = self._back_to(text)
        rest, graphs = text[count:], self._loaded.graphs
        while len(draft) < wanted:
            logits, cache = graphs.verify([rest], state)
            mask = np.ones((1, state.text_mask.shape[1] + len(rest)), np.bool_)
            places = state.positions + len(rest), state.orders + len(rest)
            state, count = RowsState(cache, mask, *places, state.adapters), count + len(rest)
            self._fed = [*text, *draft]
            self._states.append((count, state))
            rest = [int(logits[0, -1].argmax())]
            draft += rest
            if rest[0] in self._loaded.ends:
                break
        del self._states[: -self._length.most - 1]
        costs.drafted(rows, len(draft), costs.now() - begin)
        return draft

    def told(self, drafted: int, accepted: int) -> None:
        """See ``lookup.Drafts``."""
        self._length.told(drafted, accepted)

    def _back_to(self, text: Sequence[int]) -> tuple[int, RowsState]:
        """The latest state all of whose tokens ``text`` has, before its last one."""
        same = next((at for at, (a, b) in enumerate(zip(self._fed, text, strict=False)) if a != b), len(self._fed))
        self._states = [one for one in self._states if one[0] <= min(same, len(text) - 1)]
        if not self._states:
            self._states = [(0, self._read())]
        return self._states[-1]

    def _read(self) -> RowsState:
        """The prompt and its pictures."""
        request, loaded, seen = self._request, self._loaded, self._seen
        if seen is None:
            loaded.load(images=len(request.images) > 0)
            seen = loaded.encode_images(*request.shown())
        else:
            loaded.load(images=False)
            seen = loaded.graphs.adopted(seen, request.padding)
        state = loaded.run(request.token_ids, seen, blocks=request.blocks).state
        position, order = (np.array([place], np.int64) for place in (state.next_position, state.next_order))
        return RowsState(state.cache, np.ones((1, state.past_text), np.bool_), position, order, (None,))
