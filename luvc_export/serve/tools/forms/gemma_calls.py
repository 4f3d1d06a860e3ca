"""Gemma 4's form: ``call:NAME{key:value,...}``, where a token stands for quotes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luvc_export.serve.tools.call_form import CallForm, Schemas
from luvc_export.serve.tools.forms.value_rules import Notation, object_rule
from luvc_export.serve.tools.kinds import json_word
from luvc_export.serve.tools.letters import Letters, Reading
from luvc_export.serve.tools.rules import Rules

_BEGIN, _END, _QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'


def _read(letters: Letters, schemas: Schemas) -> Reading[None]:
    yield from letters.blanks()
    yield from letters.expect("call:")
    letters.begin_call((yield from letters.text_until("{")).strip())
    letters.argue("{")
    yield from _pairs(letters)
    yield from letters.blanks()
    yield from letters.expect(letters.mark(_END))


def _pairs(letters: Letters, depth: int = 0) -> Reading[None]:
    """Up to the brace, which is told too."""
    before = ""
    while True:
        yield from letters.blanks()
        if (yield from letters.at("}")):
            letters.argue("}")
            return
        if (yield from letters.at(",")):
            continue
        quote = letters.mark(_QUOTE)
        if (yield from letters.at(quote)):
            key = yield from letters.text_until(quote)
            yield from letters.blanks()
            yield from letters.expect(":")
        else:
            key = (yield from letters.text_until(":")).strip()
        letters.argue(f"{before}{json.dumps(letters.plain(key), ensure_ascii=False)}: ")
        before = ", "
        yield from _value(letters, letters.below(depth))


def _value(letters: Letters, depth: int) -> Reading[None]:
    yield from letters.blanks()
    quote = letters.mark(_QUOTE)
    if (yield from letters.at(quote)):
        letters.argue('"')
        yield from letters.until(quote, tell=letters.argue_text)
        letters.argue('"')
    elif (yield from letters.at("{")):
        letters.argue("{")
        yield from _pairs(letters, depth)
    elif (yield from letters.at("[")):
        letters.argue("[")
        before = ""
        while not (yield from _closed(letters, "]")):
            if (yield from letters.at(",")):
                continue
            letters.argue(before)
            before = ", "
            yield from _value(letters, letters.below(depth))
        letters.argue("]")
    elif (yield from letters.peek()) == '"':
        yield from letters.json_value(letters.argue)
    else:
        word = list[str]()
        letters.put_back((yield from letters.until(",", "}", "]", tell=word.append)))
        letters.argue(json_word("".join(word)))


def _closed(letters: Letters, text: str) -> Reading[bool]:
    yield from letters.blanks()
    return (yield from letters.at(text))


def _text_rule(rules: Rules) -> str:
    return f"{rules.mark(_QUOTE)} {rules.until(_QUOTE)}"


def _value_of(rules: Rules, value: str) -> str:
    return f"{rules.mark(_QUOTE)} {rules.text(value)} {rules.mark(_QUOTE)}"


_NOTATION = Notation("gemma", _text_rule, _value_of, lambda key: f"{key}:", "{", "}", ",", "true", "false", "null")


def _one(rules: Rules, name: str, schema: Mapping[str, Any]) -> str:
    return f"{rules.text(f'call:{name}')} {object_rule(rules, _NOTATION, schema)} {rules.mark(_END)}"


def _whole(rules: Rules, one: str, several: bool) -> str:
    return f"{one} ({rules.mark(_BEGIN)} {one})*" if several else one


GEMMA = CallForm("gemma", _BEGIN, (_BEGIN, _END, _QUOTE), r"<\|tool_call>", _read, _one, _whole)
