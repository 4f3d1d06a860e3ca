"""Answers of a JSON schema, a regular expression or a grammar: a token mask (llguidance, the extra ``guided``)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from luvc_export.errors import CheckFailed, MachineError, UsageError
from luvc_export.runtime.generation.json_schemas import compilable
from luvc_export.runtime.generation.pattern_size import shortest_match
from luvc_export.runtime.generation.sampling import GUIDES, Sampling

#: Characters of a schema or pattern: the grammar's compiler has limits of its own, but reads all of it first.
MAX_CHARACTERS = 100_000
#: Characters that the shortest answer a pattern allows may have: longer than any answer, and repetitions inside
#: repetitions take the library seconds.
MAX_ANSWER = 10_000
#: Work the library may do on patterns before the first token, and for a token's mask. By ``benchmarks/serving/fuel.py``
#: over the 49,152 tokens of SmolLM2's vocabulary: at most 26 ms before the first token and 80 ms for a mask, where 9 of
#: 18 walks through repetitions inside repetitions take too much. What the library does by itself (200,000): 15 ms, 14
#: walks; twice this: 135 ms, 8 walks.
_FUEL, _MASK_FUEL = 300_000, 1_000_000
#: Regular expressions of a grammar in Lark's form.
_LARK_PATTERN = re.compile(r"/((?:[^/\\\n]|\\.)+)/")


class Grammars:
    """Compiles grammars for one tokenizer, which is read when the first one is.

    Args:
        tokenizer: The bundle's, from ``tokenizer.json``.
        vocab: Logits of a step; ids beyond the tokenizer's are never allowed.
        ends: Tokens that end an answer, allowed once the grammar is satisfied.
    """

    def __init__(self, tokenizer: Tokenizer, vocab: int, ends: frozenset[int]) -> None:
        self._source, self._vocab, self._ends = tokenizer, vocab, sorted(ends)

    def guided(self, options: Sampling) -> Sampling:
        """``options`` with the mask that their schema, pattern or grammar means; themselves where they have none.

        Raises:
            UsageError: It cannot be compiled.
            MachineError: llguidance is not installed.
        """
        where = next((name for name in GUIDES if getattr(options, name) is not None), None)
        if where is None:
            return options
        library, tokens = _library(), self._tokens
        asked = getattr(options, where)
        try:
            text = json.dumps(compilable(asked), allow_nan=False) if where == "json_schema" else str(asked)
            if len(text) > MAX_CHARACTERS:
                most = f"at most {MAX_CHARACTERS:,}"
                raise UsageError("this is too long", where=where, got=f"{len(text):,} characters", expected=most)
            patterns = {"regex": lambda: [text], "grammar": lambda: _LARK_PATTERN.findall(text)}
            for pattern in patterns.get(where, lambda: _patterns(asked))():
                if (length := shortest_match(pattern)) > MAX_ANSWER:
                    got, most = f"at least {length:,} characters: {pattern[:80]}", f"at most {MAX_ANSWER:,}"
                    raise UsageError("no answer can be as long as this pattern", where=where, got=got, expected=most)
            grammar = _WRITERS[where](library, text)
            failed, messages = library.LLMatcher.validate_grammar_with_warnings(grammar, tokens)
        except (ValueError, TypeError, RecursionError) as error:
            failed, messages = True, [str(error)]
        if failed:
            fix = "see docs/serving.md for what is understood"
            raise UsageError("no grammar can be made of this", where=where, got=" ".join(messages)[:500], fix=fix)
        limits = library.LLParserLimits(initial_lexer_fuel=_FUEL, step_lexer_fuel=_MASK_FUEL, verbose_errors=False)
        first = library.LLMatcher(tokens, grammar, log_level=0, limits=limits)
        if first.is_error():
            raise UsageError("no grammar can be made of this", where=where, got=first.get_error()[:500])
        vocab, ends = self._vocab, self._ends
        bare = replace(options, json_schema=None, regex=None, grammar=None)
        return replace(bare, mask=lambda: _GrammarMask(first.deep_copy(), vocab, ends, where))

    @cached_property
    def _tokens(self) -> Any:
        try:
            return _library().LLTokenizer(self._source.to_str(), self._vocab, self._ends or None)
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                "this tokenizer cannot be guided: its tokens are no bytes",
                where="tokenizer.json",
                got=str(error)[:300],
                expected="a byte-level or byte-fallback tokenizer",
            ) from error


def _patterns(schema: Any) -> Iterator[str]:
    """Every regular expression in a schema; what only looks like one (a property called pattern) is judged too."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get("pattern"), str):
                yield one["pattern"]
            if isinstance(one.get("patternProperties"), dict):
                yield from (name for name in one["patternProperties"] if isinstance(name, str))
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _from_schema(library: Any, text: str) -> Any:
    """Whitespace as json.dumps writes it or none: a model that may write any number of blanks may never end."""
    return library.LLMatcher.grammar_from_json_schema(
        text, overrides={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    )


def _from_regex(library: Any, text: str) -> Any:
    return library.LLMatcher.grammar_from_regex(text)


def _from_grammar(library: Any, text: str) -> Any:
    """Lark's form as it is; GBNF, as llama-server and vLLM have it, rewritten by the library.

    Raises:
        ValueError: It is neither.
    """
    from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

    try:
        return library.LLMatcher.grammar_from_lark(any_to_lark(text))
    except (GbnfToLarkError, LookupError, AttributeError) as error:
        raise ValueError(f"neither Lark nor GBNF: {error}") from error


_WRITERS: dict[str, Callable[[Any, str], Any]] = {
    "json_schema": _from_schema,
    "regex": _from_regex,
    "grammar": _from_grammar,
}


class _GrammarMask:
    """The mask of one answer: told all its tokens at every step, it consumes those that are new.

    Follows ``logits.ForeseeingMask``.

    Raises:
        UsageError: A mask takes more work than is allowed, or a token is not of the grammar. The library says so in
            its state alone, and its mask is then that of an end.
    """

    def __init__(self, matcher: Any, vocab: int, ends: Sequence[int], where: str) -> None:
        self._matcher, self._vocab, self._ends, self._told, self._where = matcher, vocab, ends, 0, where

    def __call__(self, answer: Sequence[int]) -> NDArray[np.bool_]:
        self._consume(answer)
        matcher = self._matcher
        allowed = np.zeros(self._vocab, np.bool_)
        if not matcher.is_stopped():
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            allowed[: min(self._vocab, bits.size)] = bits[: self._vocab].astype(np.bool_)
        if matcher.is_stopped() or matcher.is_accepting():
            allowed[list(self._ends)] = True
        if matcher.is_error():
            raise UsageError(
                "the answer takes too much work to hold to this",
                where=self._where,
                got=f"answer token {self._told}: {matcher.get_error()[:300]}",
                fix="simplify its patterns: no repetitions inside repetitions, shorter alternatives",
            )
        return allowed

    def certain(self, answer: Sequence[int]) -> list[int]:
        """See ``logits.ForeseeingMask``: as the tokenizer would write it, which a model may write otherwise."""
        self._consume(answer)
        return [] if self._matcher.is_stopped() else [int(token) for token in self._matcher.compute_ff_tokens()]

    def _consume(self, answer: Sequence[int]) -> None:
        for token in answer[self._told :]:
            if not self._matcher.consume_token(int(token)):
                raise CheckFailed(
                    "the grammar refuses a token it allowed",
                    where=f"answer token {self._told}",
                    got=self._matcher.get_error()[:300],
                )
            self._told += 1


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MachineError(
            "guided answers need a package that is not installed",
            got=str(error),
            fix="pip install 'luvc-export[guided]'",
        ) from error
    return llguidance
