"""Drafts by look-up: what followed the same tokens the last time they stood in the prompt or the answer.

Saxena, Prompt Lookup Decoding (2023), as transformers' ``prompt_lookup_num_tokens`` and vLLM's ``ngram``. How long a
draft is follows from how its predecessors fared, so that an answer that repeats nothing pays for few of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

#: Tokens that must agree before their continuation is drafted; the longest agreement is taken. One alone says little.
SIZES = (4, 3, 2)
#: Steps without drafts after drafts of which nothing was taken, at most.
LONGEST_PAUSE = 16


class Drafts(ABC):
    """Drafts of one answer."""

    @abstractmethod
    def propose(self, answer: Sequence[int], room: int, certain: Sequence[int] = ()) -> list[int]:
        """Tokens that may follow.

        Args:
            answer: The answer so far.
            room: How many at most.
            certain: What is known to follow ``answer``; the draft goes on after it and does not hold it.
        """

    @abstractmethod
    def record_outcome(self, drafted: int, accepted: int) -> None:
        """Learn that of ``drafted`` tokens the first ``accepted`` were taken."""


class Lookup(Drafts):
    """See ``Drafts``: what followed the same tokens before.

    Args:
        prompt: Its tokens.
        most: Tokens of a draft at most.
        never: Tokens that are never drafted: placeholders of pictures.
    """

    def __init__(self, prompt: Sequence[int], most: int, never: Collection[int] = ()) -> None:
        self._most, self._never = most, frozenset(never)
        self._seen: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._prompt, self._limit = len(prompt), most
        self._misses = self._pause = 0
        self._read(prompt)

    def propose(self, answer: Sequence[int], room: int, certain: Sequence[int] = ()) -> list[int]:
        """See ``Drafts``."""
        self._read(answer[len(self._seen) - self._prompt :])
        if self._pause:
            self._pause -= 1
            return []
        text = [*self._seen, *certain]
        start = next((place for size in SIZES if (place := self._place(text, size)) is not None), None)
        if start is None:
            return []
        draft: list[int] = []
        for place in range(start, start + min(room, self._limit)):
            token = text[place] if place < len(text) else draft[place - len(text)]
            if token in self._never:
                break
            draft.append(token)
        return draft

    def record_outcome(self, drafted: int, accepted: int) -> None:
        """See ``Drafts``."""
        if not drafted:
            return
        if accepted:
            self._misses = 0
            self._limit = min(self._most, 2 * self._limit if accepted == drafted else accepted + 1)
            return
        self._misses, self._limit = self._misses + 1, max(1, self._limit // 2)
        self._pause = min(LONGEST_PAUSE, 2**self._misses - 2)

    def _read(self, tokens: Sequence[int]) -> None:
        """Note which tokens stood before each of ``tokens``; only what has a continuation is found."""
        for token in tokens:
            place = len(self._seen)
            for size in SIZES:
                if place >= size:
                    self._after[tuple(self._seen[place - size :])] = place
            self._seen.append(token)

    def _place(self, text: Sequence[int], size: int) -> int | None:
        """Where what followed the last ``size`` tokens of ``text`` stands."""
        return self._after.get(tuple(text[len(text) - size :])) if len(text) >= size else None
