"""Qwen3.5's form: ``<function=NAME>`` and a ``<parameter=NAME>`` for each argument, texts as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from luvc_export.serve.tools.call_form import CallForm, Schemas
from luvc_export.serve.tools.kinds import is_text, json_word, may_be_text
from luvc_export.serve.tools.letters import Letters, Reading
from luvc_export.serve.tools.rules import Rules, ordered

_BEGIN, _END = "<tool_call>", "</tool_call>"
#: How a value ends; models leave the new line out at times.
_ENDS = ("\n</parameter>", "</parameter>")


def _read(letters: Letters, schemas: Schemas) -> Reading[None]:
    yield from letters.blanks()
    yield from letters.expect("<function=")
    name = (yield from letters.text_until(">")).strip()
    letters.begin_call(name)
    before = "{"
    while True:
        yield from letters.blanks()
        if (yield from letters.expect("<parameter=", "</function>")) == "</function>":
            break
        key = (yield from letters.text_until(">")).strip()
        yield from letters.at("\n")
        letters.argue(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
        before = ", "
        yield from _value(letters, schemas.get(name, {}), key)
    letters.argue("}" if before == ", " else "{}")
    yield from letters.blanks()
    yield from letters.expect(letters.mark(_END))


def _value(letters: Letters, schema: Mapping[str, Any], key: str) -> Reading[None]:
    if is_text(schema, key):
        letters.argue('"')
        yield from letters.until(*_ENDS, tell=letters.argue_text)
        letters.argue('"')
        return
    word = yield from letters.text_until(*_ENDS)
    letters.argue(json_word(word) if word.strip() or not may_be_text(schema, key) else json.dumps(word))


def _one(rules: Rules, name: str, schema: Mapping[str, Any]) -> str:
    parts = [
        (rules.text(f"<parameter={key}>\n") + " " + _value_rule(rules, name, schema, key, inside), needed)
        for key, inside, needed in ordered(schema)
    ]
    inside = " ".join(f"({part})" + ("" if needed else "?") for part, needed in parts)
    head, tail = rules.text(f"\n<function={name}>\n"), rules.text("</function>\n")
    return f"{head} {inside} {tail} {rules.mark(_END)}"


def _value_rule(rules: Rules, name: str, schema: Mapping[str, Any], key: str, inside: Any) -> str:
    if not is_text(schema, key):
        return f"{rules.json(name, inside, schema)} {rules.text(_ENDS[0] + chr(10))}"
    values = inside.get("enum", [inside["const"]] if "const" in inside else None)
    if values:
        return "(" + " | ".join(map(rules.text, values)) + f") {rules.text(_ENDS[0] + chr(10))}"
    return rules.lazy(_ENDS[0] + "\n")


def _whole(rules: Rules, one: str, several: bool) -> str:
    return f"{one} ({rules.after_blank(_BEGIN)} {one})*" if several else one


XML = CallForm("qwen-xml", _BEGIN, (_BEGIN, _END), r"<function=", _read, _one, _whole)
