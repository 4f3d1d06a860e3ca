"""Each row of ``/v1/fields`` is sent: what is honoured changes the answer, what is refused is named, the rest not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from calling import Client, Reply, data_uri
from running import serving

from luvc_export.demo.questions import cases
from luvc_export.runtime.prompt.request_fields import RESPONSES_REFUSED
from luvc_export.serve import asking
from luvc_export.serve.http.app import TABLE
from luvc_export.serve.models import Models
from luvc_export.serve.vectors.doors import DOORS

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
CASE = next(cases("heldout", 1, 0, ("where_is",)))
HELLO = [{"role": "user", "content": "Hello"}]
LATER = [*HELLO, {"role": "assistant", "content": "It is"}]
PART = {"type": "image_url", "image_url": {"url": data_uri(CASE.images[0])}}
SEEN = [{"role": "user", "content": [PART, {"type": "text", "text": CASE.prompt}]}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
#: Another line, and so another call, wherever there may be one.
SEVERAL = {"logit_bias": {"205": 100}, "max_tokens": 60}
OTHER_TOOLS = [{"type": "function", **tool["function"]} for tool in TOOLS]
SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
#: An id, which only an answer has.
EARLIER = "of an earlier answer"
DRAWN = {"temperature": 1.5, "seed": 3, "max_tokens": 24}
LETTERS = {"temperature": 2, "seed": 3, "response_format": {"type": "regex", "regex": "[a-h]{20}"}, "max_tokens": 24}
#: Of what is honoured: what is asked beside it, and a value that changes the answer.
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "messages": ({}, [{"role": "user", "content": "red"}]),
    "model": ({}, "demo#nine"),
    "stream": ({}, True),
    "stream_options": ({"stream": True}, {"include_usage": True}),
    "max_tokens": ({}, 1),
    "max_completion_tokens": ({"max_tokens": None}, 1),
    "temperature": ({"seed": 3}, 2),
    "top_p": (DRAWN, 0),
    "top_k": (DRAWN, 1),
    "min_p": (DRAWN, 1),
    "seed": (DRAWN, 4),
    "stop": ({"response_format": {"type": "regex", "regex": "left one"}}, "one"),
    "n": ({}, 2),
    "logprobs": ({}, True),
    "top_logprobs": ({"logprobs": True}, 2),
    "presence_penalty": (LETTERS, -2),
    "frequency_penalty": (LETTERS, -2),
    "repetition_penalty": (DRAWN, 100),
    "logit_bias": ({}, {"40": 100}),
    "response_format": ({}, {"type": "regex", "regex": "right"}),
    "mm_processor_kwargs": ({"messages": SEEN}, {"max_pixels": 1}),
    "luvc": ({}, {"survivors": True}),
    "structured_outputs": ({}, {"choice": ["right"]}),
    "guided_json": ({}, SCHEMA),
    "guided_regex": ({}, "right"),
    "guided_choice": ({}, ["right"]),
    "guided_grammar": ({}, 'start: "right"'),
    "min_tokens": ({"logit_bias": {}}, 6),
    "ignore_eos": ({}, True),
    "stop_token_ids": ({}, [425]),
    "include_stop_str_in_output": ({"response_format": {"type": "regex", "regex": "left one"}, "stop": "one"}, True),
    "add_generation_prompt": ({}, False),
    "continue_final_message": ({"messages": LATER}, True),
    "echo": ({"messages": LATER}, True),
    "chat_template_kwargs": ({}, {"add_generation_prompt": False}),
    "tools": ({}, TOOLS),
    "tool_choice": ({"tools": TOOLS}, "required"),
    "parallel_tool_calls": ({"tools": TOOLS, "tool_choice": "required", **SEVERAL}, False),
    # which the demo's template has none of: it says so
    "reasoning_effort": ({}, "high"),
    "thinking_token_budget": ({}, 3),
    # of completions
    "prompt": ({}, "red"),
    "add_special_tokens": ({}, 3),  # the demo's tokenizer adds none
    # of responses
    "reasoning": ({}, {"effort": "high"}),
    "input": ({}, "red"),
    "instructions": ({}, "red"),
    "max_output_tokens": ({}, 1),
    "text": ({}, {"format": {"type": "regex", "regex": "right"}}),
    "previous_response_id": ({}, EARLIER),
    "store": ({}, False),
    "include": ({}, ["message.output_text.logprobs"]),
}
#: The same of completions.
COMPLETIONS_CHANGES: dict[str, tuple[dict[str, Any], Any]] = {"logprobs": ({}, 2), "echo": ({}, True)}
#: The same where responses need other fields beside it, or take other values.
RESPONSES_CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "stop": ({"text": {"format": {"type": "regex", "regex": "left one"}}}, "one"),
    "top_logprobs": ({}, 2),
    "tools": ({}, OTHER_TOOLS),
    "tool_choice": ({"tools": OTHER_TOOLS}, "required"),
    "parallel_tool_calls": ({"tools": OTHER_TOOLS, "tool_choice": "required", **SEVERAL}, False),
    "include_stop_str_in_output": ({"text": {"format": {"type": "regex", "regex": "left one"}}, "stop": "one"}, True),
    "mm_processor_kwargs": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": data_uri(CASE.images[0])}]}]},
        {"max_pixels": 1},
    ),
}
OF_PATHS = {COMPLETIONS: COMPLETIONS_CHANGES, RESPONSES: RESPONSES_CHANGES}
#: See ``plain``.
PLAIN: dict[tuple[int, str, str], Any] = {}
ROWS = [pytest.param(row, id=f"{row['path']} {row['name']}") for row in TABLE if row["path"] not in DOORS]


def send(client: Client, path: str, **fields: Any) -> Reply:
    own: dict[str, Any] = {"messages": HELLO, "max_tokens": 6} if path == CHAT else {"input": "Hello"}
    if path == COMPLETIONS:
        own = {"prompt": "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "max_tokens": 6}
    if path == RESPONSES and "response_format" in fields and fields.get("max_tokens"):
        fields["text"] = {"format": fields.pop("response_format")}
    if path == RESPONSES:
        own["max_output_tokens"] = fields.pop("max_tokens") if isinstance(fields.get("max_tokens"), int) else 6
    return client.call("POST", path, json.dumps({"model": "demo", **own, **fields}).encode())


def seen(reply: Reply) -> Any:
    """Of an answer what the request may change; not what it only repeats, nor what differs from run to run."""
    if reply.headers["content-type"] != "application/json":
        return re.sub(rb'"(id|created|timings|cached_tokens)":("[^"]+"|\d+|\{[^}]*\})', b"", reply.body)
    body = reply.json()
    for details in ("prompt_tokens_details", "input_tokens_details"):
        body.get("usage", {}).pop(details, None)
    for item in body.get("output", []):
        del item["id"]
        item.pop("call_id", None)
    for call in [one for choice in body.get("choices", []) for one in choice.get("message", {}).get("tool_calls", [])]:
        del call["id"]
    kept = ("choices", "output", "usage", "luvc", "error", "status", "model", "store")
    return reply.status, {name: body.get(name) for name in kept}


def plain(client: Client, path: str, fields: dict[str, Any]) -> Any:
    """What is seen of an answer to ``fields``, asked once."""
    key = client.port, path, json.dumps(fields)
    if key not in PLAIN:
        reply = send(client, path, **fields)
        assert reply.status == 200, reply.body
        PLAIN[key] = seen(reply)
    return PLAIN[key]


def check(client: Client, row: dict[str, Any]) -> None:
    path, name = row["path"], row["name"]
    *holders, field = name.split(".")
    if row["is"] == "honoured":
        beside, value = OF_PATHS.get(path, {}).get(name) or CHANGES[name]
        value = send(client, path).json()["id"] if value == EARLIER else value
        after = send(client, path, **{**beside, name: value})
        assert plain(client, path, beside) != seen(after), f"{name} changes nothing"
    elif holders:
        part = {"type": "text", "text": "Hello", field: "x"}
        message = {**HELLO[0], field: "x"} if holders == ["messages[]"] else {"role": "user", "content": [part]}
        error = send(client, path, messages=[message]).json()["error"]
        assert error["code"] == "unsupported_parameter" and error["param"] == name.replace("[]", "[0]")
        assert row["why"] in error["message"]
    elif row["is"] == "refused":
        reply = send(client, path, **{name: {"never": "heard"}})
        error = reply.json()["error"]
        assert (reply.status, error["code"], error["param"]) == (400, "unsupported_parameter", name), error
        assert row["why"] in error["message"]
        for nothing in row["asks_for_nothing"]:
            assert send(client, path, **{name: nothing}).status == 200, nothing
    else:
        reply = send(client, path, **{name: "x" if name != "metadata" else {"a": "b"}})
        assert reply.status == 200 and "x-luvc-ignored" not in reply.headers
        assert seen(reply) == plain(client, path, {})


@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_as_the_table_says(client: Client, row: dict[str, Any]) -> None:
    check(client, row)


@pytest.mark.parametrize("name", ["top_k", "stop", "logit_bias", "min_p"])
def test_a_field_that_is_not_read_shows(client: Client, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: its reader is removed."""
    real: Callable[..., Any] = asking.sampling
    monkeypatch.setattr(asking, "sampling", lambda chat, own: real(msgspec.structs.replace(chat, **{name: None}), own))
    (row,) = [row for row in TABLE if (row["path"], row["name"]) == (CHAT, name)]
    with pytest.raises(AssertionError, match=f"{name} changes nothing"):
        check(client, row)


def test_the_table_is_served(client: Client) -> None:
    body = client.call("GET", "/v1/fields").json()
    assert body == {"object": "list", "data": msgspec.json.decode(msgspec.json.encode(TABLE))}
    assert {row["is"] for row in TABLE} == {"honoured", "refused", "harmless"} and all(row["why"] for row in TABLE)
    places = [(row["path"], row["name"]) for row in TABLE]
    assert len(places) == len(set(places)), "each has one row"
    honoured = {name for path, name in places if path == RESPONSES} - {*RESPONSES_REFUSED}
    assert {"input", "text", "user"} <= honoured


@pytest.mark.parametrize(
    ("fields", "param", "hint"),
    [({"temprature": 1}, "temprature", "did you mean temperature?"), ({"max_token": 1}, "max_token", "max_tokens?"),
     ({"messages": [{**HELLO[0], "contents": "x"}]}, "messages[0].contents", "did you mean content?"),
     ({"n_predict": 3}, "n_predict", "see max_tokens"), ({"regex": "a"}, "regex", "see guided_regex")],
)  # fmt: skip
def test_what_is_misspelt_says_what_was_meant(client: Client, fields: Any, param: str, hint: str) -> None:
    error = send(client, CHAT, **fields).json()["error"]
    assert error["param"] == param and hint in error["message"], error


def test_what_nobody_has_heard_of_is_named(client: Client) -> None:
    part = {"type": "text", "text": "Hello", "glow": 1}
    fields = {"messages": [{"role": "user", "content": [part]}], "never heard\r\nof: x": 1, "zzz": None, "qqq": 2}
    reply = send(client, CHAT, **fields)
    assert (
        reply.status == 200
        and reply.headers["x-luvc-ignored"] == "never?heard??of??x, qqq, messages[0].content[0].glow"
    )
    assert send(client, RESPONSES, qqq=1).headers["x-luvc-ignored"] == "qqq"
    assert send(client, RESPONSES, **{"qqq": 1, "": 1}).headers["x-luvc-ignored"] == "qqq, ?", (
        "no header ends in a blank"
    )
    assert "x-luvc-ignored" not in send(client, CHAT).headers


def test_a_strict_server_refuses_it(models: Models) -> None:
    with serving(models, strict=True) as (_, client):
        for path in (CHAT, RESPONSES):
            error = send(client, path, qqq=1).json()["error"]
            assert error["param"] == "qqq" and "there is no field qqq; this server is strict" in error["message"]
            assert send(client, path, user="me").status == 200
