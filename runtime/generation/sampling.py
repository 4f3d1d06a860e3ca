"""Choosing the next token from logits: greedy or drawn; names and order of what draws are transformers'."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.errors import CheckFailed, UsageError, did_you_mean
from luvc_export.runtime.generation.logits import Logits, Penalties, TokenMask, masked

#: Most likely tokens that log probabilities may name, and how far penalties and a bias reach (OpenAI's limits).
MAX_TOP, MAX_PENALTY, MAX_BIAS = 20, 2.0, 100.0
#: Smallest and largest ``repetition_penalty``: beyond, every logit it touches is as good as 0 or infinite.
REPETITION_RANGE = (0.01, 100.0)


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
        min_p: Draw only from tokens at least ``min_p`` times as likely as the most likely one, in [0, 1].
        repetition_penalty: See ``logits.Penalties``; 0.01 to 100, 1 changes nothing.
        presence_penalty: The same; -2 to 2.
        frequency_penalty: The same; -2 to 2.
        logit_bias: Token id -> what is added to its logit, -100 to 100.
        logprobs: Give log probabilities (``Generation.logprobs``) of every token and of so many most likely ones, 0 to
            20; None for none.
        mask: Called once for each answer; gives a ``logits.TokenMask``, which says before every token what may follow.
        json_schema: The answer is a JSON text of this schema. Needs the extra ``guided``.
        regex: The answer matches this regular expression (Rust's syntax, no look-around). The same.

    Raises:
        UsageError: A value is out of range, or one that needs ``temperature`` is given without it.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    mask: Callable[[], TokenMask] | None = None
    json_schema: Mapping[str, Any] | None = None
    regex: str | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        bias = self.logit_bias if isinstance(self.logit_bias, Mapping) else {"": 0.0}
        problems = [
            f"{name}: got {getattr(self, name)!r}, expected {expected}"
            for name, good, expected in (
                ("temperature", _number(self.temperature) and self.temperature >= 0, "a finite number of at least 0"),
                ("top_k", self.top_k is None or _whole(self.top_k), "None or a whole number >= 0"),
                ("top_p", _number(self.top_p) and 0 < self.top_p <= 1, "a fraction in (0, 1]"),
                ("seed", self.seed is None or _whole(self.seed), "None or a whole number >= 0"),
                ("max_new_tokens", self.max_new_tokens is None or _whole(self.max_new_tokens, 1), "None or at least 1"),
                ("stop", all(isinstance(item, str) and item for item in stop), "strings that are not empty"),
                ("min_p", _number(self.min_p) and 0 <= self.min_p <= 1, "a fraction in [0, 1]"),
                (
                    "repetition_penalty",
                    _number(self.repetition_penalty)
                    and REPETITION_RANGE[0] <= self.repetition_penalty <= REPETITION_RANGE[1],
                    "a number from 0.01 to 100",
                ),
                ("presence_penalty", _within(self.presence_penalty, MAX_PENALTY), "a number from -2 to 2"),
                ("frequency_penalty", _within(self.frequency_penalty, MAX_PENALTY), "a number from -2 to 2"),
                (
                    "logit_bias",
                    all(_whole(token) and _within(value, MAX_BIAS) for token, value in bias.items()),
                    "token ids with numbers from -100 to 100",
                ),
                (
                    "logprobs",
                    self.logprobs is None or (_whole(self.logprobs) and self.logprobs <= MAX_TOP),
                    "None or a whole number from 0 to 20",
                ),
                ("mask", self.mask is None or callable(self.mask), "a function"),
                ("json_schema", self.json_schema is None or isinstance(self.json_schema, Mapping), "a JSON object"),
                ("regex", self.regex is None or (isinstance(self.regex, str) and self.regex != ""), "a pattern"),
            )
            if not good
        ]
        if not problems and self.temperature == 0 and (self.top_k or self.top_p < 1 or self.min_p):
            problems.append("top_k, top_p and min_p choose what is drawn from, but temperature 0 draws nothing: set it")
        if (self.mask, self.json_schema, self.regex).count(None) < 2:
            problems.append("mask, json_schema and regex exclude each other: give one")
        if problems:
            raise UsageError("the sampling options are wrong:\n" + "\n".join(f"  - {item}" for item in problems))

    @property
    def takes_the_best(self) -> bool:
        """The most likely token is always taken, and nobody asks about the other logits."""
        changed = self.changes_logits or self.mask or self.json_schema is not None or self.regex
        return self.temperature == 0 and self.logprobs is None and not changed

    @property
    def changes_logits(self) -> bool:
        """There is a bias or a penalty."""
        return bool(self.logit_bias or self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)


class Sampler:
    """Draws tokens with one ``Sampling`` and its own random state.

    Args:
        sampling: How.
        prompt: The prompt's text tokens, for ``repetition_penalty``.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        self.sampling, self._prompt = sampling, prompt
        self._random = np.random.default_rng(sampling.seed)
        self._penalties = Penalties(
            sampling.logit_bias, sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty
        )
        self._mask = sampling.mask() if sampling.mask else None

    def __call__(self, logits: Logits, step: int, made: Sequence[int] = ()) -> int:
        """Choose a token from float32 logits [vocab]; ``step`` (0 is the first token of the answer) is for errors.

        ``made`` are the answer's tokens so far.

        Raises:
            CheckFailed: A logit is NaN or infinite upwards, or all are minus infinity, or the mask leaves no token.
        """
        best = int(np.argmax(logits))  # a NaN, where there is one
        if not math.isfinite(float(logits[best])):
            bad = int(np.sum(~np.isfinite(logits)))
            first = int(np.argmin(np.isfinite(logits)))
            check_finite(math.nan, step, f"{bad} of {logits.size} values, the first at token id {first}")
        if self.sampling.changes_logits:
            logits = self._penalties.apply(logits, self._prompt, made)
        if self._mask is not None and (allowed := self._mask(made)) is not None:
            logits = masked(logits, allowed, step)
        best = int(np.argmax(logits))
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
    """Chances [vocab] of each token after temperature, top-k, top-p, then min-p (transformers' order; sum 1).

    Equal logits at the edge of top-k all stay; top-p keeps the most likely token whatever its value.
    """
    with np.errstate(over="ignore"):  # what a temperature near 0 pushes to minus infinity has no chance
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
    if sampling.min_p:
        chances[chances < sampling.min_p * chances.max()] = 0
        chances /= chances.sum()
    return chances


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _within(value: object, most: float) -> bool:
    return _number(value) and -most <= value <= most  # type: ignore[operator]


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
