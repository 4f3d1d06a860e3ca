"""A budget of a thought's tokens: once it is spent, the mark behind the thought is all that may follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from luvc_export.runtime.generation.logits import TokenMask


class ThoughtBudget:
    """Follows ``logits.TokenMask``.

    Args:
        most: Tokens of the thought.
        open_after: Given the answer's tokens, whether they end within a thought.
        end: Tokens of the mark behind it.
        vocab: Logits of a step.
        inner: What else holds the answer; None for nothing.
    """

    def __init__(
        self,
        most: int,
        open_after: Callable[[Sequence[int]], bool],
        end: Sequence[int],
        vocab: int,
        inner: TokenMask | None = None,
    ) -> None:
        self._most, self._open_after, self._end, self._vocab, self._inner = most, open_after, end, vocab, inner
        self._from: int | None = None
        self._over = False

    def __call__(self, answer: Sequence[int]) -> NDArray[np.bool_] | None:
        """See ``logits.TokenMask``."""
        inner = None if self._inner is None else self._inner(answer)
        if self._over or len(answer) < self._most:
            return inner
        if self._from is None:
            if not self._open_after(answer):
                self._over = True
                return inner
            if inner is not None and not inner[self._end[0]]:  # half a character stands there
                return inner
            self._from = len(answer)
        place = len(answer) - self._from
        if place >= len(self._end):
            self._over = True
            return inner
        only = np.zeros(self._vocab, np.bool_)
        only[self._end[place]] = True
        return only
