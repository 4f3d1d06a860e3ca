"""What clients of other engines ask for: answers held to choices and grammars, answers that go on, other ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from calling import Client

HELLO = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
TURNS = [{"role": "user", "content": "where is red?"}, {"role": "assistant", "content": "row"}]


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, ('{"n": 1}', '{"n": 2}')),
        ({"guided_json": SCHEMA}, ('{"n": 1}', '{"n": 2}')),
        ({"guided_json": json.dumps(SCHEMA)}, ('{"n": 1}', '{"n": 2}')),
        ({"guided_regex": "x[yz]"}, ("xy", "xz")),
        ({"guided_choice": ["a+b", "(c)"]}, ("a+b", "(c)")),
        ({"guided_grammar": 'root ::= "p" | "q"'}, ("p", "q")),
        ({"structured_outputs": {"json": SCHEMA}}, ('{"n": 1}', '{"n": 2}')),
        ({"structured_outputs": {"choice": ["a+b"], "regex": None}}, ("a+b",)),
        ({"structured_outputs": {"grammar": 'start: "p" | "q"'}}, ("p", "q")),
    ],
)
def test_answers_are_held_to_what_is_asked(client: Client, fields: dict[str, Any], texts: tuple[str, ...]) -> None:
    reply = client.chat(**{**HELLO, **fields})
    assert reply.status == 200 and reply.text in texts
    assert reply.json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"guided_regex": "("}, "guided_regex", "no grammar can be made"),
        ({"structured_outputs": {"grammar": "%%%"}}, "structured_outputs.grammar", "neither Lark nor GBNF"),
        ({"guided_json": "{"}, "guided_json", "this is not JSON"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "guided_json and guided_regex exclude each other"),
        ({"guided_choice": []}, "guided_choice", "length >= 1"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs", "structural_tag"),
        ({"min_tokens": 13}, "min_tokens", "more than the most"),
        ({"ignore_eos": True, "guided_regex": "a"}, None, "ignore_eos goes on where"),
        ({"continue_final_message": True}, "continue_final_message", "there is no answer to go on with"),
        ({"messages": TURNS, "continue_final_message": True, "add_generation_prompt": True},
         "continue_final_message", "add_generation_prompt is false then"),
        ({"chat_template_kwargs": {"messages": []}}, "messages", "own values cannot be given"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(client: Client, fields: dict[str, Any], param: str | None, words: str) -> None:
    error = client.chat(**{**HELLO, **fields}).json()["error"]
    assert error["param"] == param and words in error["message"], error


def test_an_answer_goes_on_and_is_echoed(client: Client) -> None:
    """What the model had answered goes on where it was cut: the same tokens in sum."""
    whole = client.chat(**{**HELLO, "messages": TURNS[:1]}).text
    head = whole.split(" ")[0]
    asked = {**HELLO, "messages": [TURNS[0], {"role": "assistant", "content": head}], "continue_final_message": True}
    rest = client.chat(**asked)
    assert rest.status == 200 and head + rest.text == whole
    assert client.chat(**asked, echo=True).text == whole
    events = list(client.events(**asked, echo=True))
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == whole


def test_ends_are_the_requests(client: Client) -> None:
    plain = client.chat(**HELLO).json()
    assert plain["choices"][0]["finish_reason"] == "stop" and plain["usage"]["completion_tokens"] < 12
    on = client.chat(**HELLO, ignore_eos=True).json()
    assert (on["choices"][0]["finish_reason"], on["usage"]["completion_tokens"]) == ("length", 12)
    longer = client.chat(**HELLO, min_tokens=9).json()
    assert longer["usage"]["completion_tokens"] >= 9
