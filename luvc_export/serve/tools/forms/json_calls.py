"""Forms whose arguments are JSON: Hermes' and Qwen's, Mistral's old and new, Llama's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luvc_export.serve.tools.call_form import CallForm, Schemas, call_object
from luvc_export.serve.tools.letters import Letters, Reading
from luvc_export.serve.tools.rules import Rules

_BEGIN, _END = "<tool_call>", "</tool_call>"
_CALLS, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


def _read_hermes(letters: Letters, schemas: Schemas) -> Reading[None]:
    yield from letters.blanks()
    yield from call_object(letters)
    yield from letters.blanks()
    yield from letters.expect(letters.mark(_END))


def _hermes_call(rules: Rules, name: str, schema: Mapping[str, Any]) -> str:
    head = rules.text(f'\n{{"name": "{name}", "arguments": ')
    return f"{head} {rules.json(name, schema)} {rules.text('}' + chr(10))} {rules.mark(_END)}"


def _hermes(rules: Rules, one: str, several: bool) -> str:
    begin = rules.mark(_BEGIN)
    return f"{one} ({rules.after_blank(_BEGIN)} {one})*" if several and begin else one


def _read_mistral(letters: Letters, schemas: Schemas) -> Reading[None]:
    """Both: a list of objects, or a name before its arguments."""
    yield from letters.blanks()
    if (yield from letters.at("[")):
        while True:
            yield from letters.blanks()
            if (yield from letters.expect("{", "]", ",")) == "{":
                letters.put_back("{")
                yield from call_object(letters)
            elif letters.raw[-1] == "]":
                return
    name, marks = list[str](), (letters.mark(_ARGS), letters.mark(_ID), "{")
    mark = yield from letters.until(*marks, tell=name.append)
    letters.begin_call("".join(name).strip())
    if mark == letters.mark(_ID):
        yield from letters.text_until(letters.mark(_ARGS))
    elif mark == "{":
        letters.put_back("{")
    yield from letters.blanks()
    yield from letters.json_value(letters.argue)
    letters.end_call()


def _listed_call(rules: Rules, name: str, schema: Mapping[str, Any]) -> str:
    head = rules.text(f'{{"name": "{name}", "arguments": ')
    return f"{head} {rules.json(name, schema)} {rules.text('}')}"


def _listed(rules: Rules, one: str, several: bool) -> str:
    more = f"({rules.text(', ')} {one})*" if several else ""
    return f"{rules.text(' [')} {one} {more} {rules.text(']')}"


def _named_call(rules: Rules, name: str, schema: Mapping[str, Any]) -> str:
    return f"{rules.text(name)} {rules.mark(_ARGS)} {rules.json(name, schema)}"


def _named(rules: Rules, one: str, several: bool) -> str:
    return f"{one} ({rules.mark(_CALLS)} {one})*" if several else one


def _read_llama(letters: Letters, schemas: Schemas) -> Reading[None]:
    yield from call_object(letters)
    while True:  # as some models write several
        yield from letters.blanks()
        yield from letters.expect(";")
        yield from letters.blanks()
        yield from call_object(letters)


def _llama_call(rules: Rules, name: str, schema: Mapping[str, Any]) -> str:
    head = rules.text(f'{{"name": "{name}", "parameters": ')
    return f"{head} {rules.json(name, schema)} {rules.text('}')}"


def _llama(rules: Rules, one: str, several: bool) -> str:
    more = f"({rules.text('; ')} {one})*" if several else ""
    return f"{one} {more}"


HERMES = CallForm("hermes", _BEGIN, (_BEGIN, _END), r"<tool_call>", _read_hermes, _hermes_call, _hermes)
MISTRAL = CallForm(
    "mistral",
    _CALLS,
    (_CALLS, _ARGS, _ID),
    r"\[TOOL_CALLS\](?s:.*)\[ARGS\]",
    _read_mistral,
    _named_call,
    _named,
    id_letters=9,
)
MISTRAL_OLD = CallForm(
    "mistral-old", _CALLS, (_CALLS, _ARGS, _ID), r"\[TOOL_CALLS\]", _read_mistral, _listed_call, _listed, id_letters=9
)
LLAMA = CallForm(
    "llama", "", ("<|python_tag|>",), r'"parameters": ?|<\|python_tag\|>', _read_llama, _llama_call, _llama
)
