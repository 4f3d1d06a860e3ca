"""Choosing the next token from logits by a ``Sampling``: greedy or drawn, in transformers' order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import CheckFailed
from luvc_export.runtime.generation.logits import ForeseeingMask, Logits, Penalties, masked
from luvc_export.runtime.generation.sampling import Sampling


class Sampler:
    """Draws tokens with one ``Sampling`` and its own random state.

    Args:
        sampling: How.
        prompt: All tokens of the prompt, for what looks at them; a picture's placeholder once or more often.
        ends: Tokens that end an answer.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = (), ends: frozenset[int] = frozenset()) -> None:
        self.sampling, self._prompt, self._ends = sampling, prompt, ends
        self._rules = sampling.rules
        self._random = np.random.default_rng(sampling.seed)
        self._penalties = Penalties(
            sampling.logit_bias, sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty
        )
        self._mask = sampling.mask() if sampling.mask else None

    def __call__(self, logits: Logits, step: int, answer: Sequence[int] = ()) -> int:
        """Choose a token from float32 logits [vocab]; ``step`` (0 is the first token of the answer) is for errors.

        ``answer`` are the answer's tokens so far.

        Raises:
            CheckFailed: A logit is NaN or infinite upwards, or all are minus infinity, or the mask leaves no token.
        """
        best = int(np.argmax(logits))  # a NaN, where there is one
        if not math.isfinite(float(logits[best])):
            bad = int(np.sum(~np.isfinite(logits)))
            first = int(np.argmin(np.isfinite(logits)))
            check_finite(math.nan, step, f"{bad} of {logits.size} values, the first at token id {first}")
        if self.sampling.changes_logits:
            logits = self._penalties.apply(logits, self._prompt, answer)
        if self._rules:
            logits = self._rules.apply(logits, self._prompt, answer, self._ends, self.sampling.max_new_tokens)
            check_left(logits, step)
        if self._mask is not None and (allowed := self._mask(answer)) is not None:
            logits = masked(logits, allowed, step)
        best = int(np.argmax(logits))
        if self.sampling.temperature == 0:
            return best
        tokens, chances = candidates(logits, self.sampling)
        return int(self._random.choice(tokens, p=chances))

    def certain(self, answer: Sequence[int]) -> Sequence[int]:
        """Tokens that can only follow ``answer`` by the mask, where it knows (``logits.ForeseeingMask``)."""
        return self._mask.certain(answer) if isinstance(self._mask, ForeseeingMask) else ()


def check_finite(largest: float, step: int, got: str = "the largest is not a number, or infinite") -> None:
    """Check the largest logit of an answer's token ``step``.

    Raises:
        CheckFailed: It is not finite.
    """
    if not math.isfinite(largest):
        raise CheckFailed(
            "the model's logits are not finite",
            where=f"answer token {step}",
            got=got,
            fix="compare the bundle with its checkpoint; half precision may overflow: export with --dtype fp32",
        )


def check_left(logits: Logits, step: int) -> None:
    """Check that rules leave a token to choose at an answer's token ``step``.

    Raises:
        CheckFailed: They leave none.
    """
    if not np.isfinite(logits).any():
        raise CheckFailed(
            "the sampling options allow no token",
            where=f"answer token {step}",
            got="bad_words_ids, suppress_tokens and the like forbid all of them",
            fix="leave some out, or ask with greedy=True",
        )


def probabilities(logits: Logits, sampling: Sampling) -> NDArray[np.float64]:
    """Chances [vocab] of each token after temperature, top-k, top-p, then min-p (transformers' order; sum 1).

    Equal logits at the edge of top-k all stay; top-p keeps the most likely token whatever its value.
    """
    tokens, chances = candidates(logits, sampling)
    all_chances = np.zeros(logits.size)
    all_chances[tokens] = chances
    return all_chances


def candidates(logits: Logits, sampling: Sampling) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The tokens that may be drawn, by rising id, and the chance of each: ``probabilities`` without its zeros.

    Sorting 152 thousand tokens takes 20 ms; so what top-k drops is dropped first, and before top-p sorts, what is too
    unlikely to be kept: tokens below (1 - top_p) / n together have less than 1 - top_p.
    """
    tokens: NDArray[np.intp] = np.flatnonzero(np.isfinite(logits))
    if sampling.top_k and sampling.top_k < logits.size:
        tokens = np.flatnonzero(logits >= np.partition(logits, -sampling.top_k)[-sampling.top_k])
        tokens = tokens[np.isfinite(logits[tokens])]
    with np.errstate(over="ignore"):  # what a temperature near 0 pushes to minus infinity has no chance
        scaled = (logits[tokens].astype(np.float64) - float(logits.max())) / sampling.temperature
    chances: NDArray[np.float64] = np.exp(scaled)
    chances /= chances.sum()
    if sampling.top_p < 1:
        likely = chances >= (1 - sampling.top_p) / chances.size
        tokens, chances = tokens[likely], chances[likely]
        order = np.argsort(-chances, kind="stable")
        before = np.cumsum(chances[order]) - chances[order]
        kept = np.sort(order[before < sampling.top_p])  # before[0] is 0: the first always stays
        tokens, chances = tokens[kept], chances[kept]
        chances /= chances.sum()
    if sampling.min_p:
        kept = np.flatnonzero(chances >= sampling.min_p * chances.max())
        tokens, chances = tokens[kept], chances[kept]
        chances /= chances.sum()
    return tokens, chances
