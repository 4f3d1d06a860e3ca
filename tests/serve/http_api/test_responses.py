"""Responses: one turn as OpenAI's newer interface has it, whole and as events in the official order."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from calling import Client, Reply, data_uri
from hypothesis import given
from hypothesis import strategies as st

from luvc_export.demo.questions import cases
from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.interfaces.responses import parse_response

CASE = next(cases("heldout", 1, 0, ("where_is",)))
PICTURE = {"type": "input_image", "image_url": data_uri(CASE.images[0]), "detail": "auto"}


def asked(**more: Any) -> dict[str, Any]:
    content = [PICTURE, {"type": "input_text", "text": CASE.prompt}]
    return {"model": "demo", "input": [{"role": "user", "content": content}], **more}


def respond(client: Client, **request: Any) -> Reply:
    return client.call("POST", "/v1/responses", json.dumps(request).encode())


def events(client: Client, **request: Any) -> list[dict[str, Any]]:
    raw = respond(client, **request, stream=True).body.decode()
    events = []
    for block in raw.strip().split("\n\n"):
        name, _, data = block.partition("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def test_a_whole_response(client: Client) -> None:
    body = respond(client, **asked(metadata={"a": "b"}, instructions=None)).json()
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", "demo")
    assert body["id"].startswith("resp_") and abs(body["created_at"] - time.time()) < 60
    (item,) = body["output"]
    assert (item["type"], item["role"], item["status"], item["id"][:4]) == ("message", "assistant", "completed", "msg_")
    assert item["content"] == [{"type": "output_text", "text": CASE.answer, "annotations": [], "logprobs": []}]
    usage, chat = body["usage"], client.chat(model="demo", messages=chat_messages()).json()["usage"]
    assert usage["input_tokens"] == chat["prompt_tokens"] and usage["output_tokens"] == chat["completion_tokens"]
    assert usage["total_tokens"] == chat["total_tokens"] and usage["output_tokens_details"]["reasoning_tokens"] == 0
    assert (body["metadata"], body["store"], body["error"]) == ({"a": "b"}, True, None)


def chat_messages() -> list[Any]:
    content = [{"type": "image_url", "image_url": {"url": PICTURE["image_url"]}}, {"type": "text", "text": CASE.prompt}]
    return [{"role": "user", "content": content}]


def test_events_come_in_the_official_order(client: Client) -> None:
    sent = events(client, **asked())
    kinds = [event["type"].removeprefix("response.") for event in sent]
    deltas = kinds.count("output_text.delta")
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * deltas,
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert deltas > 2 and [event["sequence_number"] for event in sent] == list(range(len(sent)))
    text = "".join(event["delta"] for event in sent if "delta" in event)
    assert text == CASE.answer == sent[-4]["text"] == sent[-1]["response"]["output"][0]["content"][0]["text"]
    assert sent[0]["response"]["status"] == "in_progress" and sent[0]["response"]["output"] == []
    assert {event["item_id"] for event in sent if "item_id" in event} == {sent[2]["item"]["id"]}


def test_an_answer_that_is_cut_is_incomplete(client: Client) -> None:
    body = respond(client, **asked(max_output_tokens=2)).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (body["output"][0]["content"][0]["text"], body["output"][0]["status"]) == ("row two", "incomplete")
    last = events(client, **asked(max_output_tokens=2))[-1]
    assert last["type"] == "response.incomplete" and last["response"]["usage"]["output_tokens"] == 2


def test_instructions_turns_and_text_alone(client: Client) -> None:
    first = {"role": "assistant", "type": "message", "content": [{"type": "output_text", "text": CASE.answer}]}
    turns = [*asked()["input"], first, {"role": "user", "content": "digit of red?"}]
    body = respond(client, model="demo", instructions="Short answers.", input=turns).json()
    same = client.chat(
        model="demo",
        messages=[
            {"role": "system", "content": "Short answers."},
            *chat_messages(),
            {"role": "assistant", "content": CASE.answer},
            {"role": "user", "content": "digit of red?"},
        ],
    )
    assert body["output"][0]["content"][0]["text"] == same.text
    assert respond(client, model="demo", input="Hello", max_output_tokens=3).status == 200


def test_structured_output_and_logprobs(client: Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    shape = {"format": {"type": "json_schema", "name": "x", "strict": True, "schema": schema}}
    body = respond(client, **asked(text=shape)).json()
    assert json.loads(body["output"][0]["content"][0]["text"])["n"] in (1, 2) and body["text"] == shape
    body = respond(client, **asked(include=["message.output_text.logprobs"], top_logprobs=2)).json()
    logprobs = body["output"][0]["content"][0]["logprobs"]
    assert "".join(one["token"] for one in logprobs) == CASE.answer and len(logprobs[0]["top_logprobs"]) == 2


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
        ({"previous_response_id": 1}, "previous_response_id", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "unsupported_parameter"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_parameter"),
        ({"text": 3}, "text", "invalid_value"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema",
         "missing_required_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": 7}, "input", "invalid_value"),
        ({"input": [7]}, "input[0]", "invalid_value"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0].content", "invalid_value"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input[0].call_id",
         "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type",
         "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text",
         "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].image_url", "missing_required_parameter"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": 3}]}]},
         "input[0].content[0].image_url", "invalid_value"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x", "detail": "most"}]}]},
         "input[0].content[0].detail", "invalid_value"),
        ({"instructions": "x", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "ftp:x"}]}]},
         "input[0].content[0].image_url", "invalid_image_url"),
        ({"instructions": 3}, "instructions", "invalid_value"),
        ({"input": "x " * 1000}, "input", "context_length_exceeded"),
        ({"model": "gone"}, "model", "model_not_found"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_is_named_as_it_was_sent(client: Client, change: Any, param: str, code: str) -> None:
    reply = respond(client, **{"model": "demo", "input": "Hello", **change})
    error = reply.json()["error"]
    assert (reply.status in (400, 404), error["param"], error["code"]) == (True, param, code), error


@pytest.mark.parametrize(
    ("path", "way"),
    [("/v1/responses/resp_1/cancel", "GET and DELETE"),
     ("/v1/rerankers", "/v1/models"), ("/v2", "/v1/models")],
)  # fmt: skip
def test_what_is_not_here_says_where_to_go(client: Client, path: str, way: str) -> None:
    reply = client.call("POST", path, b"{}")
    assert reply.status == 404 and way in reply.json()["error"]["message"]


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
_KNOWN = ("type", "role", "content", "text", "format", "image_url", "input_text", "input_image", "user", "message")
_JSON = st.recursive(
    _LEAVES | st.sampled_from(_KNOWN),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KNOWN), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = (
    "input",
    "instructions",
    "text",
    "include",
    "tools",
    "reasoning",
    "metadata",
    "top_logprobs",
    "stream",
    "luvc",
)


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_any_object_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        assert parse_response(json.dumps({"model": "demo", "input": "x", **fields}).encode()).chat.messages
    except ApiError as error:
        assert error.status == 400 and error.code
