"""A schema, pattern or grammar of a client -> the grammar that llguidance compiles, and the work it may take for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from luvc_export.errors import MachineError, UsageError
from luvc_export.runtime.generation.json_schemas import compilable

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
#: Of a regular expression: a repetition; an escape, which is longer than one letter, and a group; where its shortest
#: match is not followed further.
_REPEAT = re.compile(r"\{(\d{1,18})(?:,\d{0,18})?\}")
_ESCAPE = re.compile(r"\\(?:[pPxuU]\{[^}]*\}|x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_GROUP = re.compile(r"\((?:\?(?:P?<[^>=!]*>|[a-zA-Z-]*:))?")
_ENOUGH = 10**12
_FIX = "see docs/serving.md for what is understood"


def grammar_of(where: str, asked: Any) -> str:
    """What ``library().LLMatcher`` takes. May take long: strangers' go through ``grammar_trials``.

    Args:
        where: ``json_schema``, ``regex`` or ``grammar``.
        asked: The schema (any JSON value), or the pattern or grammar as a text.

    Raises:
        UsageError: It is none, or no answer can be as long as a pattern of it.
        MachineError: llguidance is not installed.
    """
    try:
        text = json.dumps(compilable(asked), allow_nan=False) if where == "json_schema" else str(asked)
        patterns = {"regex": lambda: [text], "grammar": lambda: _LARK_PATTERN.findall(text)}
        for pattern in patterns.get(where, lambda: _patterns(asked))():
            if (length := shortest_match(pattern)) > MAX_ANSWER:
                raise UsageError(
                    "no answer can be as long as this pattern",
                    where=where,
                    got=f"at least {length:,} characters: {pattern[:80]}",
                    expected=f"at most {MAX_ANSWER:,}",
                    fix="repeat less in it",
                )
        return str(_WRITERS[where](library(), text))
    except (ValueError, TypeError, RecursionError) as error:
        raise no_grammar(where, str(error)) from error


#: Of JSON inside of a grammar, see ``_from_schema``.
_AS_DUMPED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_SCHEMA = re.compile("%json \0(\\d+)\0")


def grammar_of_tools(asked: Any) -> tuple[str, list[str]]:
    """A grammar of text, or what holds it, and of calls of tools; and tools whose schemas it does not hold.

    Args:
        asked: ``rules`` in Lark's form, in which ``%json`` and N between zero bytes stand for the N-th of ``schemas``,
            and ``@answer`` for ``answer``: ``where`` and ``asked`` as ``grammar_of`` takes them, or None. Each of
            ``schemas`` has the ``tool`` it is of, the ``schema``, and what is held where no grammar can be made of it
            (``free``; None refuses that).

    Raises:
        UsageError: See ``grammar_of``; ``where`` is then ``tool NAME`` for a schema of a tool.
        MachineError: llguidance is not installed.
    """
    parts, unheld = list[str](), dict[str, None]()
    for entry in asked["schemas"]:
        schema = entry["schema"]
        try:
            grammar = grammar_of("json_schema", schema)
            if problem := library().LLMatcher.validate_grammar(grammar):
                raise no_grammar("json_schema", problem)
            schema = compilable(schema)
        except UsageError as error:
            error.where = f"tool {entry['tool']}"
            if entry["free"] is None:
                raise
            schema = entry["free"]
            unheld[entry["tool"]] = None
        held = {**schema, "x-guidance": _AS_DUMPED} if isinstance(schema, dict) else schema
        parts.append(f"%json {json.dumps(held)}")
    rules = _SCHEMA.sub(lambda place: parts[int(place[1])], asked["rules"])
    grammars: list[Any] = [{"name": "rules", "lark_grammar": rules}]
    if (answer := asked["answer"]) is not None:
        held = grammar_of(answer["where"], answer["asked"])
        of_it = {"lark_grammar": held} if answer["where"] == "grammar" else json.loads(held)["grammars"][0]
        grammars.append({**of_it, "name": "answer"})
    return json.dumps({"grammars": grammars}), list(unheld)


def matcher(tokens: Any, grammar: str, where: str) -> Any:
    """``LLMatcher`` of a grammar that ``grammar_of`` wrote, in which the first token's mask is known.

    Raises:
        UsageError: The library refuses it.
    """
    limits = library().LLParserLimits(initial_lexer_fuel=_FUEL, step_lexer_fuel=_MASK_FUEL, verbose_errors=False)
    first = library().LLMatcher(tokens, grammar, log_level=0, limits=limits)
    if not first.is_error():
        first.compute_bitmask()
    if first.is_error():
        raise no_grammar(where, first.get_error())
    return first


def tokens_of(tokenizer: str, vocab: int, ends: list[int]) -> Any:
    """``LLTokenizer`` of the text of a ``tokenizer.json``.

    Raises:
        ValueError, RuntimeError: Its tokens are no bytes.
    """
    return library().LLTokenizer(tokenizer, vocab, ends or None)


def no_grammar(where: str, got: str) -> UsageError:
    """The error of what cannot be compiled."""
    return UsageError("no grammar can be made of this", where=where, got=got[:500], fix=_FIX)


def library() -> Any:
    """The module llguidance.

    Raises:
        MachineError: It is not installed.
    """
    try:
        import llguidance
    except ImportError as error:
        raise MachineError(
            "guided answers need a package that is not installed",
            got=str(error),
            fix="pip install 'luvc-export[guided]'",
        ) from error
    return llguidance


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
    return library.LLMatcher.grammar_from_json_schema(text, overrides=_AS_DUMPED)


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


def shortest_match(pattern: str) -> int:
    """Letters of the shortest text that ``pattern`` (Rust's syntax) matches, up to 10^12.

    A lower bound: what is not understood counts nothing, and whether the pattern is right is for its compiler to say.
    """
    alternatives, length, last = [list[int]()], [0], 0  # of each open group; the atom that a repetition would repeat
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "(":
            group = _GROUP.match(pattern, at)
            alternatives.append([])
            length.append(0)
            last, at = 0, group.end() if group else at + 1
            continue
        if letter == ")" and len(length) > 1:
            last = min([*alternatives.pop(), length.pop()])
            length[-1], at = min(length[-1] + last, _ENOUGH), at + 1
            continue
        if letter == "|":
            alternatives[-1].append(length[-1])
            length[-1], last, at = 0, 0, at + 1
            continue
        repeat = _REPEAT.match(pattern, at)
        if repeat or letter in "*+?":
            times = int(repeat[1]) if repeat else int(letter == "+")
            length[-1] = min(length[-1] + last * (times - 1), _ENOUGH)
            last, at = last * times, repeat.end() if repeat else at + 1
            continue
        if letter == "\\" and (escape := _ESCAPE.match(pattern, at)):
            last, at = int(pattern[at + 1] not in "bBAzZ<>"), escape.end()
        elif letter == "[":
            last, at = 1, _class_end(pattern, at)
        else:
            last, at = int(letter not in "^$"), at + 1
        length[-1] += last
    while len(length) > 1:  # a group that was not closed
        inner = min([*alternatives.pop(), length.pop()])
        length[-1] += inner
    return min([*alternatives[0], length[0]])


def _class_end(pattern: str, at: int) -> int:
    """The place after the class of letters that begins at ``at``."""
    at = at + 2 if pattern.startswith("[^", at) else at + 1
    at += pattern.startswith("]", at)
    depth = 1
    while at < len(pattern) and depth:
        if pattern[at] == "\\":
            at += 2
            continue
        depth += {"[": 1, "]": -1}.get(pattern[at], 0)
        at += 1
    return at
