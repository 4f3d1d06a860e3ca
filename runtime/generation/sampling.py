"""How an answer is generated: greedy or drawn, held to a schema, ended; names are transformers'."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from luvc_export.core.files.json_file import parse_json, read_json
from luvc_export.core.generation_defaults import GenerationDefaults
from luvc_export.core.options import option
from luvc_export.errors import UsageError
from luvc_export.runtime.generation.logits import TokenMask
from luvc_export.runtime.generation.token_rules import TokenRules
from luvc_export.runtime.prompt.request_fields import SAME, hint
from luvc_export.runtime.prompt.template import template_values

#: Most likely tokens that log probabilities may name, and how far penalties and a bias reach (OpenAI's limits).
MAX_TOP, MAX_PENALTY, MAX_BIAS = 20, 2.0, 100.0
#: Smallest and largest ``repetition_penalty``: beyond, every logit it touches is as good as 0 or infinite.
REPETITION_RANGE = (0.01, 100.0)


def read_bias(texts: Sequence[str]) -> dict[int, float]:
    """``ID=BIAS`` as numbers.

    Raises:
        UsageError: One is not of that form.
    """
    biases: dict[int, float] = {}
    for text in texts:
        token, _, value = text.partition("=")
        try:
            biases[int(token)] = float(value)
        except ValueError as error:
            expected = "a token id and a number, such as 13=-5"
            raise UsageError("this is no bias", where="--logit-bias", got=repr(text), expected=expected) from error
    return biases


def read_schema(path: Path) -> dict[str, Any]:
    """A JSON schema from a file.

    Raises:
        UsageError: It cannot be read, or is no JSON object.
    """
    data = read_json(path, 2**20, UsageError, "the schema")
    if not isinstance(data, dict):
        raise UsageError("a schema is a JSON object", where=f"--json-schema {path}", got=type(data).__name__)
    return data


def read_template_values(text: str) -> dict[str, Any]:
    """Variables of the chat template, from JSON.

    Raises:
        UsageError: It is no JSON object with names as keys.
    """
    data = text.encode(errors="surrogateescape")  # a shell's bytes need not be text
    return template_values(parse_json(data, "--chat-template-kwargs", UsageError, "the value"))


_asked = partial(option, verbs=("run", "batch"))
_run = partial(option, verbs=("run",))


@dataclass(frozen=True)
class Sampling:
    """How an answer is generated; every problem is reported on construction.

    Names and meaning are transformers'; the ranges are in ``help`` or what errors say is expected.

    Args:
        mask: Called once for each answer; gives a ``logits.TokenMask``, which says before every token what may follow.
        grammar: The answer is of this grammar, in Lark's form as llguidance has it or in GBNF. Needs the extra
            ``guided``, as ``json_schema`` and ``regex`` (Rust's syntax, no look-around) do.
        ignore_eos: The model's end tokens are tokens as others; the answer ends by its length, or by what follows.
        stop_token_ids: Tokens that end the answer beside the model's own.
        include_stop_str_in_output: The string or token that stopped the answer is part of its text.
        no_repeat_ngram_size: See ``token_rules.TokenRules``, as for the fields that follow; ``forced_eos_token_id``
            needs ``max_new_tokens`` to have an effect.

    Raises:
        UsageError: A value is out of range, or one that needs ``temperature`` is given without it.
    """

    max_new_tokens: int | None = _asked(None, "Longest answer; default: the model's own, else as many as fit.")
    temperature: float = _asked(0.0, "0 takes the best token; default: as the model's makers meant it.")
    top_k: int | None = _asked(None, "Sample among this many tokens.")
    top_p: float = _asked(1.0, "Sample among this much probability.")
    min_p: float = _run(0.0, "Sample among tokens this many times as likely as the best.")
    repetition_penalty: float = _run(1.0, "Above 1: less of what prompt and answer have.")
    presence_penalty: float = _run(0.0, "-2 to 2; above 0: less of what the answer has.")
    frequency_penalty: float = _run(0.0, "-2 to 2; the same, each time it has it.")
    logit_bias: Mapping[int, float] = _run(
        dict, "Added to a token's logit; repeat.", metavar="ID=BIAS", written=list[str], read=read_bias
    )
    logprobs: int | None = _run(None, "With --json: log probabilities, and of so many best tokens.")
    json_schema: Mapping[str, Any] | None = _asked(
        None, "Answers are JSON of this schema.", metavar="FILE", written=Path, read=read_schema
    )
    regex: str | None = _asked(None, "Answers match this regular expression.", metavar="PATTERN")
    seed: int | None = _asked(None, "Seed of sampling.")
    stop: tuple[str, ...] = _asked((), "End before this string; repeat.")
    mask: Callable[[], TokenMask] | None = None
    grammar: str | None = None
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    no_repeat_ngram_size: int = _run(0, "No run of so many tokens comes twice; 0: any may.")
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


@dataclass(frozen=True)
class AnswerOptions(Sampling):
    """What ``Session.generate`` takes by name, as commands ask for it."""

    greedy: bool = _asked(False, "The best token always, without the penalties the model's makers set.")
    chat_template_kwargs: Mapping[str, Any] | None = _asked(
        None,
        "Variables of the chat template: '{\"enable_thinking\": false}'.",
        metavar="JSON",
        written=str,
        read=read_template_values,
    )


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
    At temperature 0 those three change nothing and are left out. Raises what ``sampling_from`` raises.
    """
    values = {name: value for name, value in options.items() if value is not None}
    drawn = any(name in values for name in _DRAWS) and not values.get("greedy")
    if drawn and (defaults is None or not defaults.temperature):
        values.setdefault("temperature", 1.0)
    if values.get("greedy") or values.get("temperature") == 0:
        values = {name: value for name, value in values.items() if name not in _DRAWS}
    return sampling_from(values, defaults)
