"""Tokens that may not follow, or must: the rules of ``generation_config.json`` that look at the tokens before.

Names, meaning and order are those of transformers' logits processors (transformers, ``generation.logits_process``), so
that an answer is what ``model.generate`` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luvc_export.runtime.generation.logits import Logits


@dataclass(frozen=True)
class TokenRules:
    """What logits become minus infinity.

    Args:
        no_repeat_ngram_size: No run of so many tokens comes twice, the prompt's counted; 0 for no such rule.
        bad_words_ids: Sequences of tokens none of which may be completed, also one that begins in the prompt.
        suppress_tokens: Never chosen.
        begin_suppress_tokens: Not the answer's first token.
        forced_eos_token_id: The only tokens at the last place, where the number of tokens was asked for.
        min_new_tokens: Before so many tokens the answer does not end.
    """

    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_eos_token_id: tuple[int, ...] = ()
    min_new_tokens: int = 0

    def __bool__(self) -> bool:
        return self != TokenRules()

    def apply(
        self,
        logits: Logits,
        prompt: Sequence[int],
        answer: Sequence[int],
        ends: frozenset[int] = frozenset(),
        longest: int | None = None,
    ) -> Logits:
        """New logits float32 [vocab].

        Args:
            logits: float32 [vocab].
            prompt: All its tokens, placeholders of pictures too.
            answer: Tokens of the answer so far.
            ends: Tokens that end an answer.
            longest: ``max_new_tokens`` where it was asked for.
        """
        scores = logits.astype(np.float32, copy=True)
        before = [*prompt, *answer]
        _forbid(scores, _repeated(before, self.no_repeat_ngram_size))
        for *start, last in self.bad_words_ids:
            ending = not start and last in ends  # as transformers: the end of an answer is no word
            if not ending and before[len(before) - len(start) :] == start:
                _forbid(scores, [last])
        if len(answer) < self.min_new_tokens:
            _forbid(scores, ends)
        if self.forced_eos_token_id and longest is not None and len(answer) == longest - 1:
            forced = [token for token in self.forced_eos_token_id if token < scores.size]
            scores[:] = -np.inf
            scores[forced] = 0
        _forbid(scores, self.suppress_tokens)
        if not answer:
            _forbid(scores, self.begin_suppress_tokens)
        return scores


def _repeated(before: Sequence[int], size: int) -> set[int]:
    """Tokens that would complete a run of ``size`` tokens that was there before."""
    if size == 0 or len(before) + 1 < size:
        return set()
    last = list(before[len(before) - size + 1 :])
    starts = range(len(before) - size + 1)
    return {before[start + size - 1] for start in starts if list(before[start : start + size - 1]) == last}


def _forbid(logits: Logits, tokens: Sequence[int] | set[int] | frozenset[int]) -> None:
    inside = [token for token in tokens if token < logits.size]
    logits[inside] = -np.inf
