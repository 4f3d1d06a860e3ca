"""Choosing the next token from logits: greedy or drawn; names and order of what draws are transformers'."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luvc_export.core.generation_defaults import GenerationDefaults
from luvc_export.errors import CheckFailed, UsageError
from luvc_export.runtime.generation.logits import ForeseeingMask, Logits, Penalties, TokenMask, masked
from luvc_export.runtime.generation.token_rules import TokenRules
from luvc_export.runtime.prompt.request_fields import SAME, hint

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
        grammar: The answer is of this grammar, in Lark's form as llguidance has it or in GBNF. The same.
        ignore_eos: The model's end tokens are tokens as others; the answer ends by its length, or by what follows.
        stop_token_ids: Tokens that end the answer beside the model's own.
        include_stop_str_in_output: The string or token that stopped the answer is part of its text.
        no_repeat_ngram_size: See ``token_rules.TokenRules``, as for the fields that follow.
        bad_words_ids: The same.
        suppress_tokens: The same.
        begin_suppress_tokens: The same.
        forced_eos_token_id: The same; needs ``max_new_tokens`` to have an effect.
        min_new_tokens: The same.

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
    grammar: str | None = None
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    suppress_tokens: Sequence[int] = ()
    begin_suppress_tokens: Sequence[int] = ()
    forced_eos_token_id: Sequence[int] = ()
    min_new_tokens: int = 0

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
                (
                    "grammar",
                    self.grammar is None or (isinstance(self.grammar, str) and self.grammar != ""),
                    "a grammar",
                ),
                *(
                    (name, isinstance(getattr(self, name), bool), "True or False")
                    for name in ("ignore_eos", "include_stop_str_in_output")
                ),
                ("no_repeat_ngram_size", _whole(self.no_repeat_ngram_size), "a whole number >= 0"),
                ("min_new_tokens", _whole(self.min_new_tokens), "a whole number >= 0"),
                ("bad_words_ids", _words(self.bad_words_ids), "lists of token ids, none of them empty"),
                *(
                    (name, _tokens(getattr(self, name)), "a list of token ids")
                    for name in ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "stop_token_ids")
                ),
            )
            if not good
        ]
        if not problems and self.temperature == 0 and (self.top_k or self.top_p < 1 or self.min_p):
            problems.append("top_k, top_p and min_p choose what is drawn from, but temperature 0 draws nothing: set it")
        if (self.mask, self.json_schema, self.regex, self.grammar).count(None) < 3:
            problems.append("mask, json_schema, regex and grammar exclude each other: give one")
        if self.ignore_eos and self.guided:
            problems.append("ignore_eos goes on where json_schema, regex or grammar have the answer end: give one")
        if problems:
            raise UsageError("the sampling options are wrong:\n" + "\n".join(f"  - {item}" for item in problems))

    @property
    def takes_the_best(self) -> bool:
        """The most likely token is always taken, and nobody asks about the other logits."""
        changed = self.changes_logits or self.rules or self.mask or self.guided
        return self.temperature == 0 and self.logprobs is None and not changed

    @property
    def guided(self) -> bool:
        """The answer is of a schema, a pattern or a grammar."""
        return self.json_schema is not None or self.regex is not None or self.grammar is not None

    def ends(self, own: frozenset[int]) -> frozenset[int]:
        """Tokens that end the answer, where ``own`` are the model's."""
        return (frozenset() if self.ignore_eos else own) | frozenset(self.stop_token_ids)

    @property
    def changes_logits(self) -> bool:
        """There is a bias or a penalty."""
        return bool(self.logit_bias or self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)

    @property
    def rules(self) -> TokenRules:
        """Tokens that may not follow, or must."""
        return TokenRules(
            self.no_repeat_ngram_size,
            tuple(tuple(word) for word in self.bad_words_ids),
            tuple(self.suppress_tokens),
            tuple(self.begin_suppress_tokens),
            tuple(self.forced_eos_token_id),
            self.min_new_tokens,
        )


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


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _within(value: object, most: float) -> bool:
    return _number(value) and -most <= value <= most  # type: ignore[operator]


def _whole(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _tokens(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(_whole, value))


def _words(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(_tokens(one) and one for one in value)


#: Names that ``sampling_from`` takes.
OPTIONS = (*(one.name for one in dataclasses.fields(Sampling)), "greedy")
#: What an answer may be held to.
GUIDES = ("json_schema", "regex", "grammar")
#: What ``temperature`` 0 leaves without a meaning.
_DRAWS = ("top_k", "top_p", "min_p")


def sampling_from(options: Mapping[str, Any], defaults: GenerationDefaults | None = None) -> Sampling:
    """Build a ``Sampling`` from keyword arguments.

    Args:
        options: Fields of ``Sampling``, and ``greedy``: true leaves ``defaults`` out.
        defaults: The model's own (``Manifest.generation``), for fields that are not in ``options``. Where ``options``
            have a temperature of 0, those that draw are left out too; a guided answer is as long as its schema needs.

    Raises:
        UsageError: An unknown name, or a wrong value; or ``greedy`` beside something to draw.
    """
    for name in options:
        if name not in OPTIONS:
            beside = dict.fromkeys((names[0] for names in SAME), "generate")
            listed, fix = f"known: {', '.join(sorted(OPTIONS))}", hint(name, OPTIONS, beside)
            raise UsageError("unknown sampling option", where="generate", got=name, expected=listed, fix=fix)
    asked = {name: value for name, value in options.items() if name != "greedy"}
    greedy = options.get("greedy", False)
    if not isinstance(greedy, bool):
        raise UsageError("the sampling options are wrong", where="greedy", got=repr(greedy), expected="True or False")
    if greedy and asked.get("temperature"):
        raise UsageError(
            "greedy takes the most likely token, a temperature draws",
            where="greedy",
            got=f"temperature {asked['temperature']}",
            fix="give one of them",
        )
    if defaults is None or greedy:
        return Sampling(**asked)
    values = {**defaults.options(), **asked}
    if "max_new_tokens" not in asked and any(values.get(name) is not None for name in GUIDES):
        values.pop("max_new_tokens", None)
    if values.get("temperature", 0) == 0:
        values = {name: value for name, value in values.items() if name in asked or name not in _DRAWS}
    return Sampling(**values)


def sampling_of_request(options: Mapping[str, Any], defaults: GenerationDefaults | None = None) -> Sampling:
    """As ``sampling_from``, of what a client sent: None is not given.

    Where top_k, top_p or min_p say that something is to be drawn and nothing says how, temperature is 1, OpenAI's own.
    At temperature 0 those three change nothing and are left out.

    Raises:
        UsageError: See ``sampling_from``.
    """
    values = {name: value for name, value in options.items() if value is not None}
    drawn = any(name in values for name in _DRAWS) and not values.get("greedy")
    if drawn and (defaults is None or not defaults.temperature):
        values.setdefault("temperature", 1.0)
    if values.get("greedy") or values.get("temperature") == 0:
        values = {name: value for name, value in values.items() if name not in _DRAWS}
    return sampling_from(values, defaults)
