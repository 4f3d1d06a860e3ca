"""Choosing the next token from logits: greedy, temperature, top-k, top-p; names and order are transformers'."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import CheckFailed, UsageError, did_you_mean

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How an answer is generated; every problem is reported on construction.

    Args:
        temperature: 0 takes the most likely token; above, logits are divided by it (``do_sample`` is implied).
        top_k: Draw only from the ``top_k`` most likely tokens; None or 0 for all.
        top_p: Draw only from the smallest set of tokens whose probability reaches ``top_p``, in (0, 1]; 1 for all.
        seed: Seed of the draw; None draws differently each time.
        max_new_tokens: Tokens to generate at most; None for as many as the bundle holds.
        stop: Strings that end the answer; they are not part of its text.

    Raises:
        UsageError: A value is out of range, or one that needs ``temperature`` is given without it.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        problems = [
            f"{name}: got {getattr(self, name)!r}, expected {expected}"
            for name, good, expected in (
                ("temperature", _number(self.temperature) and self.temperature >= 0, "a finite number of at least 0"),
                ("top_k", self.top_k is None or _whole(self.top_k), "None or a whole number >= 0"),
                ("top_p", _number(self.top_p) and 0 < self.top_p <= 1, "a fraction in (0, 1]"),
                ("seed", self.seed is None or _whole(self.seed), "None or a whole number >= 0"),
                ("max_new_tokens", self.max_new_tokens is None or _whole(self.max_new_tokens, 1), "None or at least 1"),
                ("stop", all(isinstance(item, str) and item for item in stop), "strings that are not empty"),
            )
            if not good
        ]
        if not problems and self.temperature == 0 and (self.top_k or self.top_p < 1):
            problems.append("top_k and top_p choose what is drawn from, but temperature 0 draws nothing: set it")
        if problems:
            raise UsageError("the sampling options are wrong:\n" + "\n".join(f"  - {item}" for item in problems))


class Sampler:
    """Draws tokens with one ``Sampling`` and its own random state."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def __call__(self, logits: Logits, step: int) -> int:
        """Choose a token from float32 logits [vocab]; ``step`` (0 is the first token of the answer) is for errors.

        Raises:
            CheckFailed: A logit is NaN or infinite upwards, or all are minus infinity.
        """
        best = int(np.argmax(logits))  # a NaN, where there is one
        if not math.isfinite(float(logits[best])):
            bad = int(np.sum(~np.isfinite(logits)))
            first = int(np.argmin(np.isfinite(logits)))
            check_finite(math.nan, step, f"{bad} of {logits.size} values, the first at token id {first}")
        if self.sampling.temperature == 0:
            return best
        return int(self._random.choice(logits.size, p=probabilities(logits, self.sampling)))


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


def probabilities(logits: Logits, sampling: Sampling) -> NDArray[np.float64]:
    """Chances [vocab] of each token after temperature, then top-k, then top-p (transformers' order; sum 1).

    Equal logits at the edge of top-k all stay; top-p keeps the most likely token whatever its value.
    """
    scaled = (logits.astype(np.float64) - float(logits.max())) / sampling.temperature
    if sampling.top_k and sampling.top_k < scaled.size:
        scaled[scaled < np.partition(scaled, -sampling.top_k)[-sampling.top_k]] = -np.inf
    chances: NDArray[np.float64] = np.exp(scaled)
    chances /= chances.sum()
    if sampling.top_p < 1:
        order = np.argsort(-chances, kind="stable")
        before = np.cumsum(chances[order]) - chances[order]
        chances[order[before >= sampling.top_p]] = 0  # before[0] is 0: the first always stays
        chances /= chances.sum()
    return chances


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def sampling_from(options: Mapping[str, Any]) -> Sampling:
    """Build a ``Sampling`` from keyword arguments.

    Raises:
        UsageError: An unknown name, or a wrong value.
    """
    known = [field.name for field in dataclasses.fields(Sampling)]
    for name in options:
        if name not in known:
            raise UsageError("unknown sampling option", where="generate", got=name, expected=did_you_mean(name, known))
    return Sampling(**options)
