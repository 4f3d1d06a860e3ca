"""Calls as each form's templates write them, written here by hand, not by the code under test; and what is read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

from luvc_export.serve.tools.detection import FORMS
from luvc_export.serve.tools.splitting import AnswerReader, AnswerShape

Calls = Sequence[tuple[str, dict[str, Any]]]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def hermes(calls: Calls) -> str:
    bodies = (f'{{"name": "{name}", "arguments": {_json(arguments)}}}' for name, arguments in calls)
    return "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)


def xml(calls: Calls) -> str:
    texts = []
    for name, arguments in calls:
        values = {key: value if isinstance(value, str) else _json(value) for key, value in arguments.items()}
        parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
        texts.append(f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>")
    return "\n".join(texts)


def gemma_value(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{gemma_value(inside)}" for key, inside in value.items()) + "}"
    return "[" + ",".join(map(gemma_value, value)) + "]" if isinstance(value, list) else _json(value)


def gemma(calls: Calls) -> str:
    return "".join(f"<|tool_call>call:{name}{gemma_value(arguments)}<tool_call|>" for name, arguments in calls)


def python_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python_value(key)}: {python_value(inside)}" for key, inside in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(python_value, value)) + "]"
    return _json(value) if isinstance(value, str) else repr(value)


def pythonic(calls: Calls) -> str:
    written = []
    for name, arguments in calls:
        written.append(f"{name}({', '.join(f'{key}={python_value(value)}' for key, value in arguments.items())})")
    return f"<|tool_call_start|>[{', '.join(written)}]<|tool_call_end|>"


def mistral(calls: Calls) -> str:
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{_json(arguments)}" for name, arguments in calls)


def mistral_old(calls: Calls) -> str:
    bodies = (f'{{"name": "{name}", "arguments": {_json(arguments)}}}' for name, arguments in calls)
    return f"[TOOL_CALLS] [{', '.join(bodies)}]"


def llama(calls: Calls) -> str:
    return "; ".join(f'{{"name": "{name}", "parameters": {_json(arguments)}}}' for name, arguments in calls)


WRITERS: dict[str, Callable[[Calls], str]] = {
    "hermes": hermes,
    "qwen-xml": xml,
    "gemma": gemma,
    "lfm2": pythonic,
    "mistral": mistral,
    "mistral-old": mistral_old,
    "llama": llama,
}

SCHEMA = {
    "type": "object",
    "properties": {
        "side": {"type": "string"},
        "n": {"type": "integer"},
        "far": {"type": "boolean"},
        "more": {"type": "object"},
        "all": {"type": "array"},
    },
}
SCHEMAS = {"look": SCHEMA, "count-2": SCHEMA}


def shape(form: str, **more: Any) -> AnswerShape:
    calls = FORMS[form]
    return AnswerShape(calls=calls, schemas=SCHEMAS, **more)


def read(text: str, cuts: list[int], how: AnswerShape) -> tuple[str, str, list[tuple[str, str]]]:
    """Text, thought and calls of an answer that comes in pieces."""
    reader, deltas = AnswerReader(how), []
    places = [0, *sorted(cuts), len(text)]
    for first, last in itertools.pairwise(places):
        deltas += reader.push(text[first:last])
    deltas += reader.finish()
    texts = ["".join(delta.text for delta in deltas if delta.kind == kind) for kind in ("text", "thought")]
    calls = [(delta.text, delta.call) for delta in deltas if delta.kind == "call"]
    arguments = ["".join(one.text for one in deltas if one.kind == "arguments" and one.call == at) for _, at in calls]
    return texts[0], texts[1], [(name, text) for (name, _), text in zip(calls, arguments, strict=True)]
