"""Tools over HTTP, in both interfaces: the demo model must call where it is constrained to, streamed and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from calling import Client, Reply, data_uri, user
from client_view import streamed, without_ids

from luvc_export.demo.questions import cases
from luvc_export.runtime.generation import grammar_trials

CASE = next(cases("heldout", 1, 0, ("where_is",)))
LOOK = {
    "type": "object",
    "properties": {"side": {"enum": ["left", "right"]}, "row": {"enum": [1, 2]}},
    "required": ["side"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "look", "description": "See a side.", "parameters": LOOK, "strict": True},
    },
    {"type": "function", "function": {"name": "count", "parameters": {"type": "object", "properties": {}}}},
]
NAMED = {"type": "function", "function": {"name": "look"}}
ONLY_COUNT = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "count"}}]},
}


ASKED = {"model": "demo", "messages": user(CASE.prompt, *CASE.images), "tools": TOOLS}


def ask(client: Client, **more: Any) -> Reply:
    return client.chat(**{**ASKED, **more})


def message(client: Client, **more: Any) -> tuple[dict[str, Any], str]:
    reply = ask(client, **more)
    assert reply.status == 200, reply.body
    choice = reply.json()["choices"][0]
    return choice["message"], choice["finish_reason"]


def test_required_is_a_call(client: Client) -> None:
    answer, reason = message(client, tool_choice="required", parallel_tool_calls=False)
    (call,) = answer["tool_calls"]
    assert (answer["content"], reason, call["type"]) == (None, "tool_calls", "function")
    assert call["function"]["name"] in ("look", "count") and isinstance(json.loads(call["function"]["arguments"]), dict)


@pytest.mark.parametrize("choice", ["required", NAMED, ONLY_COUNT, "auto", "none"])
def test_streamed_and_whole_are_the_same(client: Client, choice: Any) -> None:
    """A call that is cut ends by its length."""
    asked = {**ASKED, "tool_choice": choice, "max_tokens": 42}
    whole, pieces = message(client, **asked), streamed(client, **asked)
    assert (without_ids(whole[0]), whole[1]) == (without_ids(pieces[0]), pieces[1])
    if choice is NAMED:
        assert whole[1] == "length" and whole[0]["tool_calls"][0]["function"]["arguments"].startswith('{"s')


def test_a_choice_is_held(client: Client) -> None:
    answer, _ = message(client, tool_choice=ONLY_COUNT, parallel_tool_calls=False)
    assert [call["function"] for call in answer["tool_calls"]] == [{"name": "count", "arguments": "{}"}]
    assert "tool_calls" not in message(client, tool_choice="none", max_tokens=20)[0]


def test_auto_may_answer(client: Client) -> None:
    answer, reason = message(client, tool_choice="auto")
    assert reason == ("tool_calls" if answer.get("tool_calls") else "stop")


def test_a_conversation_of_two_calls_about_a_picture(client: Client) -> None:
    """The first call, its result with a picture, a second call, and the answer."""
    messages = user(CASE.prompt, *CASE.images)
    for turn in range(2):
        answer, reason = message(client, messages=messages, tool_choice=NAMED)
        (call,) = answer["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert (call["function"]["name"], reason) == ("look", "stop") and arguments["side"] in ("left", "right")
        assert set(arguments) <= {"side", "row"} and arguments.get("row", 1) in (1, 2)
        picture = {"type": "image_url", "image_url": {"url": data_uri(CASE.images[0])}}
        content: Any = [{"type": "text", "text": "seen"}, picture] if turn else "seen"
        messages = [*messages, answer, {"role": "tool", "tool_call_id": call["id"], "content": content}]
    before = [
        ask(client, messages=each, tool_choice="none", max_tokens=1).json()["usage"]["luvc"]["visual_tokens"]["before"]
        for each in (messages, user(CASE.prompt, *CASE.images))
    ]
    assert before[0] == 2 * before[1]


ORPHAN = [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "x", "content": "y"}]


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "a tool of type custom is not"),
        ({"tools": [TOOLS[0], {"type": "web_search"}]}, "tools[1].type", "calls nothing by itself"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing required field"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "matching regex"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].function.name", "two tools are named look"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "tool_choice needs tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "gone"}}}, "tool_choice", "names gone"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type", "Invalid enum value"),
        ({"functions": [{"name": "f"}]}, "functions", "see tools"),
        ({"messages": ORPHAN}, "messages[1].tool_call_id", "no call before it has this id"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "names its call"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client: Client, change: dict[str, Any], param: str, words: str) -> None:
    reply = ask(client, **change)
    error = reply.json()["error"]
    assert (reply.status, error["param"]) == (400, param) and words in error["message"], error


def test_a_schema_that_cannot_be_held(client: Client) -> None:
    odd = {"type": "object", "properties": {"n": {"not": {}}}, "required": ["n"]}
    tool = {"type": "function", "function": {"name": "odd", "parameters": odd, "strict": True}}
    error = ask(client, tools=[TOOLS[0], tool]).json()["error"]
    assert (error["param"], error["code"]) == ("tools[1].function.parameters", "invalid_value")
    tool = {"type": "function", "function": {"name": "odd", "parameters": odd}}
    reply = ask(client, tools=[TOOLS[0], tool], max_tokens=1)
    assert reply.status == 200 and reply.headers["x-luvc-unheld-tools"] == "odd"
    assert "x-luvc-unheld-tools" not in ask(client, max_tokens=1).headers


def test_schemas_that_explode_are_refused_or_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_trials, "SECONDS", 0.3)
    exploding = {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 999979}}}
    tool = {"name": "odd", "parameters": exploding}
    refused = ask(client, tools=[{"type": "function", "function": {**tool, "strict": True}}])
    error = refused.json()["error"]
    assert (refused.status, error["param"]) == (400, "tools") and "too much work to compile" in error["message"]
    assert "expected: at most 0.3 s and 32 MiB" in error["message"], error
    reply = ask(client, tools=[{"type": "function", "function": tool}], max_tokens=1)
    assert reply.status == 200 and reply.headers["x-luvc-unheld-tools"] == "odd"


def test_arguments_that_are_sent_back_are_json(client: Client) -> None:
    for arguments, words in (('{"side": ', "these are no JSON"), ('["left"]', "arguments are a JSON object")):
        call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": arguments}}
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        error = ask(client, messages=messages).json()["error"]
        assert error["param"] == "messages[1].tool_calls[0].function.arguments" and words in error["message"]
