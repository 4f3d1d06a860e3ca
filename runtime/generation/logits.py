"""Raw logits -> those that are drawn from: bias, penalties, mask. And log probabilities of what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import CheckFailed

Logits = NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)

#: Says what may follow the answer's tokens so far: bool [vocab], or None for everything.
TokenMask = Callable[[Sequence[int]], "NDArray[np.bool_] | None"]


@runtime_checkable
class ForeseeingMask(Protocol):
    """A ``TokenMask`` that may know several tokens ahead."""

    def __call__(self, answer: Sequence[int]) -> NDArray[np.bool_] | None:
        """See ``TokenMask``."""

    def certain(self, answer: Sequence[int]) -> Sequence[int]:
        """Tokens that can only follow ``answer``; none where there is a choice."""


@dataclass(frozen=True)
class Penalties:
    """What is added to logits, token by token.

    Args:
        bias: Token id -> what is added.
        repetition: Logits of tokens in the prompt or the answer are divided by it where positive, else multiplied
            (Keskar et al., arXiv 1909.05858, as transformers' RepetitionPenaltyLogitsProcessor); 1 changes nothing.
        presence: Subtracted once from tokens of the answer (OpenAI's formula).
        frequency: Subtracted as often as they are in the answer (the same).
    """

    bias: Mapping[int, float]
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0

    def apply(self, logits: Logits, prompt: Sequence[int], answer: Sequence[int]) -> Logits:
        """New logits float32 [vocab]: bias, then repetition, then presence and frequency.

        Computed in float64 and cut to what float32 holds, so finite logits stay finite; minus infinity stays.

        Args:
            logits: float32 [vocab].
            prompt: Its text tokens; ids beyond the vocabulary are left out.
            answer: Tokens of the answer so far.
        """
        scores = logits.astype(np.float64)
        for token, value in self.bias.items():
            if token < scores.size:
                scores[token] += value
        if self.repetition != 1:
            seen = np.unique(np.array([*prompt, *answer], np.int64))
            seen = seen[(seen >= 0) & (seen < scores.size)]
            there = scores[seen]
            scores[seen] = np.where(there > 0, there / self.repetition, there * self.repetition)
        if answer and (self.presence or self.frequency):
            tokens, counts = np.unique(np.array(answer, np.int64), return_counts=True)
            scores[tokens] -= self.presence + self.frequency * counts
        return np.where(np.isneginf(scores), -np.inf, np.clip(scores, -_LARGEST, _LARGEST)).astype(np.float32)


def masked(logits: Logits, allowed: NDArray[np.bool_], step: int) -> Logits:
    """``logits`` [vocab] with minus infinity wherever ``allowed`` [vocab] is False.

    Raises:
        CheckFailed: No token is left, or the mask has another length.
    """
    if allowed.shape != logits.shape:
        got, expected = list(allowed.shape), list(logits.shape)
        raise CheckFailed("the token mask has another shape", where=f"answer token {step}", got=got, expected=expected)
    scores = np.where(allowed, logits, np.float32(-np.inf))
    if not np.isfinite(scores).any():
        raise CheckFailed(
            "the token mask allows no token",
            where=f"answer token {step}",
            got=f"{int(allowed.sum())} of {allowed.size} allowed",
            fix="allow at least one token, such as the end token",
        )
    return scores


@dataclass(frozen=True)
class TokenLogprob:
    """Log probability of a token, by the model's own logits: before bias, penalties, temperature and mask.

    ``top`` holds the most likely tokens at its place, most likely first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprob(logits: Logits, token: int, top: int) -> TokenLogprob:
    """Log softmax of float32 [vocab] at ``token`` and at the ``top`` most likely ones; ties by lower id."""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    logprobs = wide - np.log(np.exp(wide).sum())
    count = min(top, logits.size)
    edge = np.partition(logprobs, -count)[-count] if count else np.inf
    near = np.flatnonzero(logprobs >= edge)
    best = near[np.argsort(-logprobs[near], kind="stable")][:count]
    return TokenLogprob(token, float(logprobs[token]), tuple((int(one), float(logprobs[one])) for one in best))
