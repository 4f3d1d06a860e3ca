"""What a ``tokenizer.json`` may ask of the tokenizers library, looked at before the library reads it.

It comes with a bundle and is untrusted, and the library has no limits of its own: forty rules that double a letter
fill the memory and end the process, a regular expression that tries every way to split a text does not end, and a bad
one ends in a panic. So every kind of rule is on a list with what it does to a text's length; others are refused.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luvc_export.core.files.json_file import parse_json
from luvc_export.errors import BundleError

#: Of the file: Gemma 3's, the largest of the families here, has 33 MB.
MOST_BYTES = 128 * 2**20
#: How much longer all rules together may make a text: ``Prepend`` and `` `` -> ``▁`` are 1 letter for 1.
MOST_GROWTH = 64
_MOST_STEPS, _MOST_PATTERN, _MOST_REPEAT, _MOST_TEXT = 64, 4096, 1000, 1024
#: Repetitions without an end in one alternative of a pattern; the families' own have two.
_MOST_OPEN = 3
#: Tokens that a template may put around a text.
_MOST_AROUND = 1024
#: Kinds of rules, and by how much they may lengthen a text, in bytes of UTF-8. Of Unicode's forms: UAX 15, table 5 and
#: U+FDFA, 3 bytes that become 33; ``ByteLevel`` writes a byte as a letter of up to two; ``Metaspace`` a blank as ``▁``;
#: ``WordPiece`` puts a blank before each token.
_KINDS: dict[str, dict[str, float]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def check_tokenizer(data: bytes, where: str) -> int:
    """Check the rules of a tokenizer, not its vocabulary; ``where`` names the file in errors.

    Returns:
        Letters of the longest token: a text of more than so many for each token that fits does not fit.

    Raises:
        BundleError: It is too large, not JSON, or its rules may not end or may fill the memory.
    """
    if len(data) > MOST_BYTES:
        raise BundleError("the tokenizer is too large", where=where, got=f"{len(data):,} bytes", expected=MOST_BYTES)
    rules = parse_json(data, where, BundleError, "the tokenizer")
    if not isinstance(rules, dict):
        raise BundleError("the tokenizer is not a JSON object", where=where, got=type(rules).__name__)
    for part, kinds in _KINDS.items():
        growth = 1.0
        for number, step in enumerate(_steps(rules.get(part))):
            if number >= _MOST_STEPS:
                raise _refused(f"more than {_MOST_STEPS} steps", f"{where}: {part}")
            if not isinstance(step.get("type"), str) or step["type"] not in kinds:
                raise _refused(f"a rule of the kind {step.get('type')!r:.40}", f"{where}: {part}")
            growth *= kinds[step["type"]] * _growth(step, f"{where}: {part}")
            if growth > MOST_GROWTH:
                raise _refused(f"rules that make a text {growth:,.0f} times as long", f"{where}: {part}")
            for pattern in _patterns(step):
                if reason := pattern_problem(pattern):
                    raise _refused(f"{reason}: {pattern[:60]!r}", f"{where}: {part}")
    added = rules.get("added_tokens")
    if not isinstance(added, list | None):
        raise _refused(f"added tokens that are no list: {added!r:.60}", where)
    for token in added or ():
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not 0 < len(content) <= _MOST_TEXT:
            raise _refused(f"an added token {content!r:.60}", where)
    return _longest(rules)


def _longest(tokenizer: dict[str, Any]) -> int:
    """Letters of the longest token: of the vocabulary, {token: id} or [[token, score], ...], and of those added."""
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    pairs = vocab if isinstance(vocab, list) else []
    tokens = vocab if isinstance(vocab, dict) else [one[0] for one in pairs if isinstance(one, list) and one]
    added = [token["content"] for token in tokenizer.get("added_tokens") or ()]
    return max((len(token) for token in (*tokens, *added) if isinstance(token, str)), default=1)


def pattern_problem(pattern: str) -> str | None:
    """Why a regular expression might not end, might panic, or cannot be judged; None if it is fine.

    A group that repeats without an end has exponentially many ways to match, and so has a reference to what was
    matched; several repetitions in a row have as many as a power of the text's length.
    """
    if len(pattern) > _MOST_PATTERN:
        return "a pattern that is too long"
    opened: list[tuple[bool, int]] = []  # of each open group: an endless part in it, and how many in this alternative
    endless, count = False, 0
    at, last_endless = 0, False
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            if at + 1 >= len(pattern) or pattern[at + 1] in "123456789kgKRX":
                return "a reference to what was matched"
            skip = re.match(r"\\[pPx]\{[^}]*\}", pattern[at:])
            at, last_endless = at + (skip.end() if skip else 2), False
            continue
        if letter == "[":
            end = _class_end(pattern, at)
            if end is None:
                return "a class of letters without an end"
            at, last_endless = end, False
            continue
        if letter == "(":
            opened.append((endless, count))
            if len(opened) > 16:
                return "groups that are nested too deep"
            endless, count, last_endless = False, 0, False
            skip = re.match(r"\(\?(?:[:=!>]|<[=!]|[imsx-]+:?)", pattern[at:])
            if pattern.startswith("(?", at) and not skip:
                return "a group of an unknown kind"
            at += skip.end() if skip else 1
            continue
        if letter == ")":
            if not opened:
                return "a group that was not opened"
            before, outer = opened.pop()
            endless, count, last_endless = endless or before, count + outer, True
            at += 1
            if count > _MOST_OPEN:
                return "too many repetitions in a row"
            continue
        if letter == "|":
            count, last_endless, at = 0, False, at + 1
            continue
        repeat = re.match(r"[*+]|\{(\d*)(,?)(\d*)\}", pattern[at:])
        if repeat:
            low, comma, high = repeat[1] or "0", repeat[2], repeat[3]
            numbers = [number for number in (low, high) if number]
            if any(len(number) > 4 or int(number) > _MOST_REPEAT for number in numbers):
                return "a repetition of too many"
            no_end = letter in "*+" or (comma and not high)
            many = no_end or int(high or low) > 16
            if many and last_endless:
                return "a repetition of a group or of a repetition"
            if no_end:
                endless, count, last_endless = True, count + 1, True
                if count > _MOST_OPEN:
                    return "too many repetitions in a row"
            at += repeat.end()
            if at < len(pattern) and pattern[at] in "?+":  # lazy or possessive
                at += 1
            continue
        last_endless, at = (last_endless if letter == "?" else False), at + 1
    return "a group without an end" if opened else None


def _class_end(pattern: str, at: int) -> int | None:
    depth = 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 2
            continue
        depth += {"[": 1, "]": -1}.get(pattern[at], 0)
        at += 1
        if depth == 0:
            return at
    return None


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part, those of sequences one by one."""
    waiting = [part]
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, dict):
            continue
        yield one
        for name in ("normalizers", "pretokenizers", "processors", "decoders"):
            inner = one.get(name)
            waiting[:0] = inner if isinstance(inner, list) else []


def _growth(step: dict[str, Any], where: str) -> float:
    """How many times as long a step may make a text by what is written in it."""
    if step["type"] == "Precompiled":
        return _precompiled_growth(step.get("precompiled_charsmap"), where)
    if step["type"] == "TemplateProcessing":
        _check_template(step, where)
    if step["type"] != "Replace":
        return 1.0 + len(str(step.get("prepend", ""))) / 1024
    content, pattern = step.get("content"), step.get("pattern")
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(literal, str) and not literal:
        return float("inf")
    length = len(content) if isinstance(content, str) else 0
    return max(1.0, length / len(literal) if isinstance(literal, str) else 1.0 + length)


def _precompiled_growth(charsmap: Any, where: str) -> float:
    """By how much SentencePiece's table may lengthen a text: its longest replacement.

    The table is the length of a trie of 32-bit units, the trie, and replacements that end in NUL. The library makes
    room for the length that is written there: 14 bytes asked for 8 GB.
    """
    try:
        table = charsmap if isinstance(charsmap, list) else []  # a number would be as many zeros
        data = base64.b64decode(charsmap, validate=True) if isinstance(charsmap, str) else bytes(table)
    except (ValueError, TypeError) as error:
        raise _refused(f"a Precompiled table that is none: {error}", where) from error
    if not data:
        return 1.0
    trie = int.from_bytes(data[:4], "little")
    if trie % 4 or not 4 <= trie <= len(data) - 4:
        raise _refused(f"a Precompiled table of {len(data)} bytes with a trie of {trie:,}", where)
    return float(max(1, *(len(part) for part in data[4 + trie :].split(b"\0"))))


def _check_template(step: dict[str, Any], where: str) -> None:
    """A template puts each special token's ids around a text as often as it names the token."""
    known = step.get("special_tokens")
    special = known if isinstance(known, dict) else {}
    ids_by_name = {name: one.get("ids") for name, one in special.items() if isinstance(one, dict)}
    ids = {name: len(one) for name, one in ids_by_name.items() if isinstance(one, list)}
    for part in ("single", "pair"):
        pieces = step.get(part)
        around = 0
        for piece in pieces if isinstance(pieces, list) else ():
            named = piece.get("SpecialToken") if isinstance(piece, dict) else None
            around += ids.get(str(named.get("id")), 0) if isinstance(named, dict) else 0
            around += isinstance(piece, dict) and "Sequence" in piece
        if around > _MOST_AROUND:
            raise _refused(f"a template that puts {around:,} tokens around a text", where)


def _patterns(step: dict[str, Any]) -> Iterator[str]:
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
        yield pattern["Regex"]


def _refused(got: str, where: str) -> BundleError:
    return BundleError(
        "the tokenizer has rules that may not end or may fill the memory",
        where=where,
        got=got,
        fix="do not use this bundle; export it again from the checkpoint",
    )
