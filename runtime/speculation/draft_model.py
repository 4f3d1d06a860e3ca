"""Drafts by a smaller model: what it would say next, token by token, about the same pictures.

It takes its most likely token each time. A token that the larger model did not choose is given up with the state that
held it: states are never changed, so going back is going on from an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence

from luvc_export.runtime.loaded_plan import LoadedPlan
from luvc_export.runtime.prompt.request import Request
from luvc_export.runtime.state import State


class DraftModel:
    """Drafts of one answer. Follows ``lookup.Drafts``.

    Args:
        loaded: The smaller model; ``request.check_fits`` has seen it.
        request: What is answered, all of it: read when the first draft is made.
        most: Tokens of a draft at most.
    """

    def __init__(self, loaded: LoadedPlan, request: Request, most: int) -> None:
        self._loaded, self._request, self._most = loaded, request, most
        self._limit = most
        #: States after so many tokens of the answer, and what those tokens were in the longest of them.
        self._states: list[tuple[int, State]] = []
        self._fed: list[int] = []

    def propose(self, answer: Sequence[int], room: int, certain: Sequence[int] = ()) -> list[int]:
        """See ``lookup.Drafts``."""
        text, draft = [*answer, *certain], list[int]()
        if not self._states:
            self._states = [(0, self._read())]
        count, state = self._back_to(text)
        rest, graphs = text[count:], self._loaded.graphs
        while len(draft) < min(room, self._limit):
            step = graphs.run(rest, state=state)
            state, count = step.state, count + len(rest)
            self._fed = [*text, *draft]
            self._states.append((count, state))
            rest = [int(step.logits[0, -1].argmax())]
            draft += rest
            if rest[0] in self._loaded.ends:
                break
        del self._states[: -self._most - 1]
        return draft

    def told(self, drafted: int, accepted: int) -> None:
        """See ``lookup.Drafts``."""
        if drafted:
            self._limit = min(self._most, 2 * self._limit if accepted == drafted else accepted + 1)

    def _back_to(self, text: Sequence[int]) -> tuple[int, State]:
        """The latest state all of whose tokens ``text`` has, before its last one."""
        same = next((at for at, (a, b) in enumerate(zip(self._fed, text, strict=False)) if a != b), len(self._fed))
        self._states = [one for one in self._states if one[0] <= min(same, len(text) - 1)]
        if not self._states:
            self._states = [(0, self._read())]
        return self._states[-1]

    def _read(self) -> State:
        """The prompt and its pictures."""
        request, loaded = self._request, self._loaded
        loaded.load(images=len(request.images) > 0)
        seen = loaded.encode_images(*request.shown())
        return loaded.run(request.token_ids, seen, blocks=request.blocks).state
