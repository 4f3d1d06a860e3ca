"""LFM2's form: a list of calls as Python writes them, ``[name(key="value", other=1)]``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luvc_export.serve.tools.call_form import CallForm, Schemas, call_object
from luvc_export.serve.tools.forms.value_rules import Notation, object_rule
from luvc_export.serve.tools.kinds import json_word
from luvc_export.serve.tools.letters import Letters, Malformed, Reading
from luvc_export.serve.tools.rules import Rules

_BEGIN, _END = "<|tool_call_start|>", "<|tool_call_end|>"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}
#: Letters of a character's number behind a backslash.
_NUMBERED = {"x": 2, "u": 4, "U": 8}


def _read(letters: Letters, schemas: Schemas) -> Reading[None]:
    yield from letters.blanks()
    yield from letters.expect("[")
    while True:
        yield from letters.blanks()
        if (yield from letters.at("]")):
            break
        if (yield from letters.at(",")):
            continue
        if (yield from letters.peek()) == "{":  # which the model writes as well
            yield from call_object(letters)
            continue
        letters.begin_call((yield from letters.text_until("(")).strip())
        letters.argue("{")
        yield from _pairs(letters, "=", ")")
    yield from letters.blanks()
    yield from letters.expect(letters.mark(_END))


def _pairs(letters: Letters, between: str, end: str, depth: int = 0) -> Reading[None]:
    """Arguments of a call, or a dict's, up to ``end``."""
    before = ""
    while True:
        yield from letters.blanks()
        if (yield from letters.at(end)):
            letters.argue("}")
            return
        if (yield from letters.at(",")):
            continue
        letters.argue(before)
        before = ", "
        if between == "=":
            key = (yield from letters.text_until("=")).strip()
            letters.argue(json.dumps(letters.plain(key), ensure_ascii=False))
        else:
            yield from _value(letters, letters.below(depth))
            yield from letters.blanks()
            yield from letters.expect(between)
        letters.argue(": ")
        yield from _value(letters, letters.below(depth))


def _value(letters: Letters, depth: int) -> Reading[None]:
    yield from letters.blanks()
    letter = yield from letters.next()
    if letter in "'\"":
        yield from _string(letters, letter)
    elif letter == "{":
        letters.argue("{")
        yield from _pairs(letters, ":", "}", depth)
    elif letter in "[(":
        letters.argue("[")
        before, end = "", {"[": "]", "(": ")"}[letter]
        while True:
            yield from letters.blanks()
            if (yield from letters.at(end)):
                break
            if (yield from letters.at(",")):
                continue
            letters.argue(before)
            before = ", "
            yield from _value(letters, letters.below(depth))
        letters.argue("]")
    else:
        letters.put_back(letter)
        word = list[str]()
        letters.put_back((yield from letters.until(",", ")", "}", "]", ":", tell=word.append)))
        letters.argue(json_word("".join(word)))


def _string(letters: Letters, quote: str) -> Reading[None]:
    letters.argue('"')
    while (letter := (yield from letters.next())) != quote:
        if letter == "\\":
            letter = yield from letters.next()
            if letter in _NUMBERED:
                number = ""
                while len(number) < _NUMBERED[letter]:
                    number += yield from letters.next()
                letter = _character(number)
            elif letter == "\n":
                continue
            else:
                letter = _ESCAPES.get(letter, letter)
        letters.argue_text(letter)
    letters.argue('"')


def _character(number: str) -> str:
    try:
        letter = chr(int(number, 16))
        letter.encode()
        return letter
    except (ValueError, OverflowError) as error:  # half a character too
        raise Malformed from error


def _text_rule(rules: Rules) -> str:
    return rules.terminal("PYTHON_TEXT", r"/\"([^\"\\\x00-\x1f]|\\[\"\\ntr])*\"/")


_NOTATION = Notation(
    "python",
    _text_rule,
    lambda rules, value: rules.text(json.dumps(value, ensure_ascii=False)),
    lambda key: json.dumps(key, ensure_ascii=False) + ": ",
    "{",
    "}",
    ", ",
    "True",
    "False",
    "None",
)
_ARGUMENTS = _NOTATION._replace(name="call", key=lambda key: f"{key}=", open="(", close=")", inside=_NOTATION)


def _one(rules: Rules, name: str, schema: Mapping[str, Any]) -> str:
    return f"{rules.text(name)} {object_rule(rules, _ARGUMENTS, schema)}"


def _whole(rules: Rules, one: str, several: bool) -> str:
    more = f"({rules.text(', ')} {one})*" if several else ""
    return f"{rules.text('[')} {one} {more} {rules.text(']')} {rules.mark(_END)}"


PYTHONIC = CallForm("lfm2", _BEGIN, (_BEGIN, _END), r"<\|tool_call_start\|>|<\|tool_list_start\|>", _read, _one, _whole)
