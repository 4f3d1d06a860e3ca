"""Responses that are gone on with, looked at and deleted: whose they are, how long, and what they may take."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from calling import Client, Reply, data_uri
from running import serving

from luvc_export.demo.questions import cases
from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.interfaces.response_store import ResponseStore, Shelf
from luvc_export.serve.models import Models

CASE = next(cases("heldout", 1, 0, ("where_is",)))
PICTURE = {"type": "input_image", "image_url": data_uri(CASE.images[0])}
FIRST = {"role": "user", "content": [PICTURE, {"type": "input_text", "text": CASE.prompt}]}
SECOND = "digit of red?"
TOOLS = [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}]


def respond(client: Client, **fields: Any) -> Reply:
    return client.call("POST", "/v1/responses", json.dumps({"model": "demo", **fields}).encode())


def last_event(reply: Reply) -> Any:
    return json.loads(reply.body.decode().strip().split("data: ")[-1])


def at(client: Client, name: str, method: str = "GET") -> Reply:
    return client.call(method, f"/v1/responses/{name}")


@pytest.mark.parametrize("stream", [False, True])
def test_going_on_is_as_sending_all_of_it(client: Client, stream: bool) -> None:
    reply = respond(client, input=[FIRST], instructions="Short answers.", stream=stream)
    first = last_event(reply)["response"] if stream else reply.json()
    assert (first["store"], first["previous_response_id"]) == (True, None)
    assert at(client, first["id"]).json() == first, "it is kept as it was answered"
    second = respond(client, input=SECOND, previous_response_id=first["id"]).json()
    assert (second["previous_response_id"], second["instructions"]) == (first["id"], None)
    third = respond(client, input="and of blue?", previous_response_id=second["id"]).json()
    turns = [FIRST, *first["output"], {"role": "user", "content": SECOND}]
    whole = respond(client, input=turns).json()
    longer = respond(client, input=[*turns, *second["output"], {"role": "user", "content": "and of blue?"}]).json()
    for one, other in ((second, whole), (third, longer)):
        assert one["output"][0]["content"] == other["output"][0]["content"]
        assert one["usage"]["input_tokens"] == other["usage"]["input_tokens"]


def test_a_call_of_an_earlier_response_is_answered(client: Client) -> None:
    first = respond(client, input="Hello", tools=TOOLS, tool_choice="required", parallel_tool_calls=False).json()
    (call,) = first["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "7"}
    reply = respond(client, input=[result], previous_response_id=first["id"], tools=TOOLS, max_output_tokens=9)
    assert reply.status == 200, reply.body
    error = respond(client, input=[{**result, "call_id": "x"}], previous_response_id=first["id"], tools=TOOLS).json()
    assert error["error"]["param"] == "input[0].call_id"


def test_what_is_wrong_in_an_earlier_response_is_named(client: Client) -> None:
    """A call that was cut has arguments that are no JSON."""
    schema = {"type": "object", "properties": {"x": {"type": "string", "minLength": 40}}, "required": ["x"]}
    forced = {"tools": [{**TOOLS[0], "parameters": schema}], "tool_choice": "required", "max_output_tokens": 40}
    first = respond(client, input="Hello", **forced).json()
    assert (first["status"], first["output"][-1]["type"]) == ("incomplete", "function_call"), first
    error = respond(client, input="go on", previous_response_id=first["id"], tools=TOOLS).json()["error"]
    assert error["param"] == "previous_response_id", error


def test_what_was_deleted_is_gone(client: Client) -> None:
    first = respond(client, input="Hello", max_output_tokens=2).json()["id"]
    second = respond(client, input="red?", max_output_tokens=2, previous_response_id=first).json()["id"]
    assert at(client, first, "DELETE").json() == {"id": first, "object": "response", "deleted": True}
    for method in ("GET", "DELETE"):
        reply = at(client, first, method)
        assert (reply.status, reply.json()["error"]["code"]) == (404, "response_not_found")
    assert at(client, second).status == 200
    for name in (first, second, "resp_1"):
        reply = respond(client, input="red?", previous_response_id=name)
        error = reply.json()["error"]
        assert (reply.status, error["param"], error["code"]) == (
            400,
            "previous_response_id",
            "previous_response_not_found",
        )
        assert "send the whole conversation" in error["message"]


def test_nobody_else_sees_it(client: Client) -> None:
    mine, yours = replace(client, key="mine-0123456789abcdef"), replace(client, key="yours-0123456789abcdef")
    name = respond(mine, input="Hello", max_output_tokens=2).json()["id"]
    assert len(name) >= len("resp_") + 32
    for method in ("GET", "DELETE"):
        assert at(yours, name, method).status == at(client, name, method).status == 404
    assert respond(yours, input="red?", previous_response_id=name).status == 400
    assert at(mine, name).status == 200


def test_what_shall_not_be_stored_is_not(client: Client, models: Models) -> None:
    body = respond(client, input="Hello", store=False, max_output_tokens=2).json()
    assert body["store"] is False and at(client, body["id"]).status == 404
    assert respond(client, input="Hello", store="no").json()["error"]["param"] == "store"
    with serving(models, no_store=True) as (_, closed):
        body = respond(closed, input="Hello", store=True, max_output_tokens=2).json()
        reply = at(closed, body["id"])
        assert (body["store"], reply.status) == (False, 404) and "--no-store" in reply.json()["error"]["message"]
        error = respond(closed, input="Hello", previous_response_id=body["id"]).json()["error"]
        assert (error["param"], error["code"]) == ("previous_response_id", "unsupported_parameter")
        assert "--no-store" in error["message"]


def test_other_ways_to_a_response_are_refused(client: Client) -> None:
    name = respond(client, input="Hello", max_output_tokens=2).json()["id"]
    streamed = client.call("GET", f"/v1/responses/{name}?stream=true")
    assert (streamed.status, streamed.json()["error"]["param"]) == (400, "stream")
    assert at(client, f"{name}/cancel", "POST").status == at(client, f"{name}/input_items").status == 404
    assert at(client, name, "POST").headers["allow"] == "GET, DELETE"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def keep(shelf: Shelf, name: str, previous: str | None = None, letters: int = 10_000) -> bool:
    stored = shelf.begin(name, previous, [{"role": "user", "content": name * (letters // len(name))}])
    shelf.end(name, {"id": name, "output": []})
    return stored


def there(shelf: Shelf, *names: str) -> str:
    """Of these, what is stored; looking at it would keep it longer."""
    return "".join(name for name in names if name in shelf.store._by_id)


def test_who_stores_most_loses_what_is_oldest() -> None:
    store = ResponseStore(60_000)
    greedy, other = Shelf(store, client="greedy"), Shelf(store, client="other")
    assert keep(other, "o") and all(keep(greedy, name) for name in "abcdefgh")
    assert 40_000 < store.nbytes <= 60_000
    assert there(greedy, *"oabcdefgh") == "oefgh", "the others' is there, and of the greedy one's the newest"
    assert not keep(other, "x", letters=61_000) and there(other, *"xoefgh") == "oefgh"
    other.delete("o")
    for name in "efgh":
        greedy.delete(name)
    assert (store.nbytes, len(store)) == (0, 0)


def test_of_a_conversation_the_newest_goes_first() -> None:
    """What goes on with a response that is gone is good for nothing."""
    shelf = Shelf(ResponseStore(35_000))
    keep(shelf, "a")
    keep(shelf, "b", "a")
    keep(shelf, "c", "b")
    keep(shelf, "x")
    assert there(shelf, *"abcx") == "abx"
    assert len(shelf.conversation("b")) == 2


def test_what_nobody_asks_for_is_forgotten() -> None:
    clock = Clock()
    shelf = Shelf(ResponseStore(2**20, seconds=60, now=clock))
    keep(shelf, "a")
    keep(shelf, "b", "a")
    keep(shelf, "x")
    clock.seconds = 40
    assert [item["content"][0] for item in shelf.conversation("b")] == ["a", "b"]
    clock.seconds = 70
    shelf.store.expire()
    assert there(shelf, *"abx") == "ab"
    clock.seconds = 101
    shelf.store.expire()
    assert len(shelf.store) == 0 and shelf.store.nbytes == 0


def test_an_answer_that_never_ended_is_not_there() -> None:
    shelf = Shelf(ResponseStore(2**20))
    assert shelf.begin("a", None, [])
    with pytest.raises(ApiError, match="there is no response 'a' of yours"):
        shelf.response("a")
    with pytest.raises(ApiError, match="there is no response 'a' of yours"):
        shelf.conversation("a")
