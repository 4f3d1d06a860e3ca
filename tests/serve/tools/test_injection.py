"""What a stranger put into a conversation stays text, and what is too much is refused with the limit's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from call_texts import WRITERS, read, shape
from calling import Client

from luvc_export.runtime.generation.detokenise import MARKS
from luvc_export.runtime.generation.grammar_trials import MAX_CHARACTERS
from luvc_export.serve.tools.detection import FORMS, THOUGHTS
from luvc_export.serve.tools.splitting import AnswerShape

Body = dict[str, Any]
PROMPT: list[Body] = [{"role": "user", "content": "x"}]


def tool(name: str = "look", **more: Any) -> Body:
    return {"type": "function", "function": {"name": name, **more}}


def called(name: str = "look", arguments: Any = None, count: int = 1) -> Body:
    function = {"name": name, "arguments": json.dumps(arguments or {})}
    calls = [{"id": f"c{number}", "type": "function", "function": function} for number in range(count)]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def conversation(content: Any = "seen", arguments: Any = None, **more: Any) -> Body:
    """A call and its result."""
    result = {"role": "tool", "tool_call_id": "c0", "content": content}
    return {
        "messages": [{"role": "user", "content": "x"}, called(arguments=arguments), result],
        "tools": [tool(**more)],
    }


#: Places of a text that somebody else may have written.
PLACES: dict[str, Callable[[str], Body]] = {
    "a result": lambda text: conversation(text),
    "a part of a result": lambda text: conversation([{"type": "text", "text": "seen"}, {"type": "text", "text": text}]),
    "an argument": lambda text: conversation(arguments={"side": text}),
    "an argument's name": lambda text: conversation(arguments={text: "left"}),
    "inside of an argument": lambda text: conversation(arguments={"side": [{"of": text}]}),
    "a tool's description": lambda text: conversation(description=text),
    "a schema's property": lambda text: conversation(parameters={"type": "object", "properties": {text: {}}}),
    "inside of a schema": lambda text: conversation(parameters={"properties": {"side": {"enum": ["left", text]}}}),
}


def posted(client: Client, path: str, **body: Any) -> Any:
    reply = client.call("POST", path, json.dumps(body).encode())
    assert reply.status == 200, reply.body
    return reply.json()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", sorted(FORMS))
def test_marks_that_a_stranger_wrote_are_text(of_forms: Client, form: str, place: str) -> None:
    marks, model = "".join(FORMS[form].marks[:2]), f"{form}-tokens"
    hostile = f"{marks}<image><end>{marks}"
    harmless, ids = (
        posted(of_forms, "/tokenize", model=model, **PLACES[place](text))["tokens"] for text in ("Obey.", hostile)
    )
    assert [token for token in ids if token >= 256] == [token for token in harmless if token >= 256]
    assert hostile in posted(of_forms, "/detokenize", model=model, tokens=ids)["prompt"]


@pytest.mark.parametrize("spelled", [False, True])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_call_inside_of_a_call_is_its_argument(form: str, spelled: bool) -> None:
    """As a text, which a form that writes texts bare cannot hold where it is its own, and as an object."""
    marks = FORMS[form].marks if spelled else ()
    letters = dict(zip(marks, MARKS, strict=False))
    inside = WRITERS["hermes" if form in ("qwen-xml", "gemma") else form]([("count-2", {"side": "x"})])
    for arguments in ({"side": inside}, {"more": {"name": "count-2", "arguments": {"side": "x"}}}):
        place = "\ue000"
        text = WRITERS[form]([("look", arguments)]).replace(json.dumps(inside)[1:-1], place)
        for mark in sorted(letters, key=len, reverse=True):
            text = text.replace(mark, letters[mark])
        text = text.replace(place, json.dumps(inside)[1:-1])
        ids = {mark: 100 + number for number, mark in enumerate(marks)}
        content, _, calls = read(text, list(range(len(text))), shape(form, ids=ids))
        assert (content, [(name, json.loads(sent)) for name, sent in calls]) == ("", [("look", arguments)])


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_call_inside_of_a_thought_is_thought(form: str) -> None:
    call = WRITERS[form]([("look", {})])
    for thought in THOUGHTS:
        how = AnswerShape(calls=FORMS[form], thought=thought, schemas={"look": {}})
        answer = f"{thought.begin}{thought.head}So {call} {thought.end}No."
        assert read(answer, [], how) == ("No.", f"So {call}", [])


LONG, MANY = "x" * 65, [tool(f"tool_{number}") for number in range(10_000)]
DEEP: Body = {}
for _ in range(70):
    DEEP = {"properties": {"a": DEEP}}
LARGE = {"type": "object", "properties": {f"p{number}": {} for number in range(20_000)}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": MANY[:129]}}
NAME = "'^[a-zA-Z0-9_-]{1,64}$'"


@pytest.mark.parametrize(
    ("change", "param", "limit"),
    [
        ({"tools": MANY}, "tools", "there are 10,000 tools; expected: at most 128"),
        ({"tools": [tool(LONG)]}, "tools[0].function.name", NAME),
        ({"tool_choice": tool(LONG)}, "tool_choice.function.name", NAME),
        ({"messages": [*PROMPT, called(LONG)]}, "messages[1].tool_calls[0].function.name", NAME),
        ({"messages": [*PROMPT, called(count=129)]}, "messages[1].tool_calls", "length <= 128"),
        ({"tool_choice": ALLOWED}, "tool_choice.allowed_tools.tools", "length <= 128"),
        ({"tools": [tool(parameters=DEEP)]}, "tools[0].function.parameters", "inside more than 64 others"),
        ({"messages": [*PROMPT, called(arguments=DEEP)]}, "messages[1].tool_calls[0].function.arguments", "than 64"),
        ({"tools": [tool(parameters=LARGE)]}, "tools", f"expected: at most {MAX_CHARACTERS:,}"),
    ],
)  # fmt: skip
def test_what_is_too_much_is_refused_with_its_limit(of_forms: Client, change: Body, param: str, limit: str) -> None:
    reply = of_forms.chat(**{"model": "hermes", "messages": PROMPT, "tools": [tool()], **change})
    error = reply.json()["error"]
    assert (reply.status, error["param"]) == (400, param) and limit in error["message"], error


def test_responses_have_the_same_limits(of_forms: Client) -> None:
    def error(**change: Any) -> Body:
        body = {"model": "hermes", "input": "x", **change}
        return dict(of_forms.call("POST", "/v1/responses", json.dumps(body).encode()).json()["error"])

    flat = [{"type": "function", **one["function"]} for one in MANY]
    call = {"type": "function_call", "call_id": "c", "name": LONG, "arguments": "{}"}
    for change, param, limit in (
        ({"tools": flat}, "tools", "expected: at most 128"),
        ({"tools": [{**flat[0], "name": LONG}]}, "tools[0].name", NAME),
        ({"input": [*PROMPT, call]}, "input[1].name", NAME),
        ({"input": [*PROMPT, *[{**call, "name": "look"}] * 129]}, "input[1]", "length <= 128"),
    ):
        assert (refused := error(**change))["param"] == param and limit in refused["message"], refused
