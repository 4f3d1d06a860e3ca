"""What is wrong with a request is said with OpenAI's status, code and param, and the server goes on."""

from __future__ import annotations

import base64
import json
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from calling import Client, Reply, data_uri, user
from running import serving

from luvc_export.demo.questions import cases
from luvc_export.serve.models import Models
from luvc_export.serve.server import Server

CASE = next(cases("heldout", 1, 0, ("where_is",)))
KEY = "sk-0123456789abcdef"
HELLO = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def refused(reply: Reply, status: int, param: str | None = None, code: str | None = None) -> str:
    error = reply.json()["error"]
    assert (reply.status, error["param"]) == (status, param), reply.body
    assert set(error) == {"message", "type", "param", "code"} and (code is None or error["code"] == code), error
    assert "x-request-id" in reply.headers
    return str(error["message"])


def picture(url: str) -> list[dict[str, Any]]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
    return [{"role": "user", "content": content}]


WHERE = "messages[0].content[0]"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"functions": [{}]}, "functions", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"regex": "a"}, "regex", "unsupported_parameter"),
        ({"guided_json": 7}, "guided_json", "invalid_value"),
        ({"ignore_eos": 1}, "ignore_eos", "invalid_value"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"mm_processor_kwargs": {"min_pixels": 9}}, "mm_processor_kwargs", "invalid_value"),
        ({"mm_processor_kwargs": {"max_soft_tokens": 71}}, "mm_processor_kwargs.max_soft_tokens", "invalid_value"),
        ({"mm_processor_kwargs": {"max_pixels": 0}}, "mm_processor_kwargs.max_pixels", "invalid_value"),
        ({"luvc": {"image_tokens": 0}}, "luvc.image_tokens", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 3}, "max_tokens", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x " * 1000}]}, "messages", "context_length_exceeded"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        ({"presence_penalty": -2.5}, "presence_penalty", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
         "response_format.json_schema.schema", "missing_required_parameter"),
        ({"luvc": {"survivers": True}}, "luvc", "invalid_value"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 7}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, f"{WHERE}.type", "invalid_value"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
         "messages[0].tool_calls[0].function", "invalid_value"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": "x"}]}]},
         "messages[0].content", "invalid_value"),
        ({"messages": picture("ftp://x/y")}, f"{WHERE}.image_url", "invalid_image_url"),
        ({"messages": picture("data:image/png,x")}, f"{WHERE}.image_url", "invalid_image_url"),
        ({"messages": picture("data:image/png;base64,%%%")}, f"{WHERE}.image_url", "invalid_base64"),
        ({"messages": picture("data:image/png;base64,AAAA")}, WHERE, "invalid_value"),
        ({"messages": picture("http://example.org/x.png")}, f"{WHERE}.image_url", "invalid_image_url"),
        ({"messages": picture("file:///etc/passwd")}, f"{WHERE}.image_url", "invalid_image_url"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_is_named(client: Client, change: Any, param: str, code: str | None) -> None:
    refused(client.chat(**{**HELLO, **change}), 400, param, code)


def test_harmless_fields_and_nulls_pass(client: Client) -> None:
    harmless = {"user": "me", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "never_heard_of": [1]}
    nulls = dict.fromkeys(("temperature", "stop", "tools", "logit_bias", "response_format", "seed", "n", "stream"))
    nothing = {"tools": [], "tool_choice": "none", "modalities": ["text"], "parallel_tool_calls": True}
    for more in (harmless, nulls, nothing):
        assert client.chat(**{**HELLO, **more}).status == 200, more


REFUSED = {"role": "assistant", "content": None, "refusal": "No."}
#: As the official client's ``message.model_dump()`` gives an answer back, and others' have it.
ECHOED = {**REFUSED, "content": "It is left.", "refusal": None, "annotations": [], "audio": None, "function_call": None,
          "tool_calls": None, "reasoning_content": None, "name": "me"}  # fmt: skip
PARTS = [{"type": "text", "text": "It is left."}, {"type": "refusal", "refusal": "No."}]


@pytest.mark.parametrize(
    "turn", [REFUSED, ECHOED, {**ECHOED, "tool_calls": []}, {"role": "assistant", "content": PARTS}]
)
def test_history_passes_as_clients_echo_it(client: Client, turn: Any) -> None:
    user = HELLO["messages"][0]  # type: ignore[index]
    text = turn["content"] or turn["refusal"]
    plain = "".join(part.get("text") or part["refusal"] for part in text) if isinstance(text, list) else text
    reply = client.chat(**{**HELLO, "messages": [user, turn, user]})
    same = client.chat(**{**HELLO, "messages": [user, {"role": "assistant", "content": plain}, user]})
    assert (reply.status, same.status) == (200, 200) and reply.text == same.text
    assert reply.json()["usage"]["prompt_tokens"] == same.json()["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    "change",
    [{"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
     {"functions": [{}], "function_call": "none"},
     {"luvc": {"survivors": None}}, {"mm_processor_kwargs": None}, {"response_format": None},
     {"messages": [{"role": "user", "content": "Hello", "name": None, "refusal": None}]}],
)  # fmt: skip
def test_what_asks_for_nothing_changes_nothing(client: Client, change: Any) -> None:
    reply = client.chat(**{**HELLO, **change})
    assert reply.status == 200 and reply.text == client.chat(**HELLO).text


def test_top_p_0_takes_the_most_likely_token(client: Client) -> None:
    drawn = client.chat(**HELLO, top_p=0, temperature=2, seed=3)
    assert drawn.status == 200 and drawn.text == client.chat(**HELLO, temperature=0).text


def test_pictures_as_clients_write_them(client: Client) -> None:
    """Of every detail, and base64 in lines."""
    head, _, body = data_uri(CASE.images[0]).partition(",")
    lines = "\r\n".join(body[place : place + 76] for place in range(0, len(body), 76))
    for detail in ("auto", "low", "high", "original", None):
        part = {"type": "image_url", "image_url": {"url": f"{head},{lines}", "detail": detail}}
        content = [part, {"type": "text", "text": CASE.prompt}]
        reply = client.chat(model="demo", messages=[{"role": "user", "content": content}])
        assert (reply.status, reply.text) == (200, CASE.answer), reply.body


def test_usage_may_be_asked_for_with_null(client: Client) -> None:
    events = list(client.events(**HELLO, stream_options={"include_usage": None}))
    assert events and all("usage" not in event for event in events)


def test_a_model_need_not_be_named_where_one_is_served(models: Models) -> None:
    nameless = {name: value for name, value in HELLO.items() if name != "model"}
    with serving(Models([models.by_name["demo"]])) as (_, client):
        assert client.chat(**nameless).json()["model"] == "demo"
        body = json.dumps({"input": "Hello", "model": None, "max_output_tokens": 2}).encode()
        assert client.call("POST", "/v1/responses", body).json()["model"] == "demo"


def test_paths_and_methods(client: Client) -> None:
    assert "there is no GET /v1/chat" in refused(client.call("GET", "/v1/chat"), 404, code="unknown_url")
    reply = client.call("GET", "/v1/chat/completions")
    refused(reply, 405, code="method_not_supported")
    assert reply.headers["allow"] == "POST"
    refused(client.chat(**{**HELLO, "model": "demo#nine"}), 404, "model", "model_not_found")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"repetition_penalty": 1e-38}, ">= 0.01; sent: 1e-38"), ({"temperature": "hot"}, "got `str`; sent: hot"),
     ({"n": 9}, "<= 8; sent: 9")],
)  # fmt: skip
def test_what_was_sent_is_said(client: Client, change: Any, words: str) -> None:
    assert words in refused(client.chat(**{**HELLO, **change}), 400, *change)


@pytest.mark.parametrize("text", ["\\ud800", "longer \\ud83d than that", "\\udc00 first", "\\ud800\\ud800 twice"])
def test_half_a_character_is_named(client: Client, text: str) -> None:
    body = f'{{"model":"demo","messages":[{{"role":"user","content":"\\\\ud800 \\ud83d\\ude00 {text}"}}]}}'
    reply = client.call("POST", "/v1/chat/completions", body.encode())
    assert "half a character (\\ud" in refused(reply, 400, code="invalid_json"), reply.body


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b'{"model": "demo", "messages": NaN}', b"\xff\xfe", b"[" * 100_000,
             b'{"model":"demo","messages":[{"role":"user","content":"\\ud800"}]}', b'{"a":' * 5000 + b"1" + b"}" * 5000]
)  # fmt: skip
def test_what_is_no_json_is_said(client: Client, body: bytes) -> None:
    reply = client.call("POST", "/v1/chat/completions", body)
    assert reply.status == 400 and reply.json()["error"]["code"], reply.body


def test_other_content_types_are_refused(client: Client) -> None:
    """A form of a stranger's page can send text/plain without the browser asking first."""
    body = json.dumps(HELLO).encode()
    for kind in ("text/plain", "", "application/x-www-form-urlencoded"):
        refused(client.call("POST", "/v1/chat/completions", body, {"content-type": kind}), 415)


@pytest.mark.parametrize(
    ("host", "good"),
    [("localhost", True), ("127.0.0.1:8000", True), ("[::1]:8000", True), ("192.168.1.5", True),
     ("evil.example", False), ("localhost.evil.example", False), ("127.0.0.1.nip.io", False), ("", False),
     ("a@localhost", False), ("[::1]evil", False), ("[::1]evil:80", False), ("[::1]", True), ("::1", False),
     ("localhost:x", False), ("named.example", True)],
)  # fmt: skip
def test_a_foreign_host_is_refused(named: Client, host: str, good: bool) -> None:
    reply = named.call("GET", "/v1/models", headers={"host": host})
    assert reply.status == (200 if good else 403), reply.body
    if not good:
        refused(reply, 403, code="unknown_host")


@pytest.fixture(scope="module")
def named(models: Models) -> Any:
    """A server with a name and an origin of its own."""
    options = {"allow_hosts": frozenset(["named.example"]), "allow_origins": frozenset(["https://app.example"])}
    with serving(models, **options) as (_, client):
        yield client


def test_a_foreign_origin_is_refused_and_no_cors_is_said(named: Client) -> None:
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{named.port + 1}"):
        reply = named.call("GET", "/v1/models", headers={"origin": origin})
        refused(reply, 403, code="unknown_origin")
        assert not any(name.startswith("access-control") for name in reply.headers)
    own = named.call("GET", "/v1/models", headers={"origin": f"http://127.0.0.1:{named.port}"})
    assert own.status == 200 and not any(name.startswith("access-control") for name in own.headers)
    asked = named.call("OPTIONS", "/v1/chat/completions", headers={"origin": "https://app.example"})
    assert asked.status == 204 and asked.headers["access-control-allow-origin"] == "https://app.example"
    assert named.call("GET", "/v1/models", headers={"origin": "https://app.example"}).status == 200


def test_a_key_is_wanted_everywhere_but_health_and_page(models: Models) -> None:
    with serving(models, api_key=KEY) as (_, client):
        assert client.chat(**HELLO).status == 200
        for path in ("/health", "/ready", "/"):
            assert Client(client.host, client.port).call("GET", path).status == 200
        for key in (None, "sk-wrong", KEY[:-1], KEY + "x", "\u00e9"):
            wrong = Client(client.host, client.port, None)
            sent = {} if key is None else {"authorization": f"Bearer {key}"}
            for path in ("/v1/models", "/metrics"):
                reply = wrong.call("GET", path, headers=sent)
                refused(reply, 401, code="invalid_api_key")
                assert reply.headers["www-authenticate"] == "Bearer"
        assert Client(client.host, client.port).chat(**HELLO).status == 401


def test_large_bodies_are_refused_before_they_are_read(models: Models) -> None:
    with serving(models, max_body=10_000) as (_, client):
        refused(client.call("POST", "/v1/chat/completions", b"x" * 10_001), 413, code="body_too_large")
        with socket.create_connection((client.host, client.port)) as raw:  # says nothing of its length, never ends
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            raw.sendall(head + b"Content-Type: application/json\r\n\r\n")
            raw.settimeout(30)
            try:
                for _ in range(100):
                    raw.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
            except OSError:
                pass
            assert b" 413 " in raw.recv(4096)
        assert client.chat(**HELLO).status == 200


def test_too_many_pictures(models: Models) -> None:
    with serving(models, max_images=1) as (_, client):
        reply = client.chat(model="demo", messages=user("?", CASE.images[0], CASE.images[0]))
        refused(reply, 400, "messages[0].content[1]", "too_many_images")


def bomb() -> bytes:
    """A PNG that claims 60,000 x 60,000 pixels and holds zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused_before_it_is_decompressed(client: Client) -> None:
    url = "data:image/png;base64," + base64.b64encode(bomb()).decode()
    assert "too large" in refused(client.chat(**{**HELLO, "messages": picture(url)}), 400, WHERE)


def test_errors_name_no_folder_of_this_machine(client: Client, demo_bundle: Any) -> None:
    error = refused(client.chat(**{**HELLO, "messages": user("<|image_pad|>")}), 400, "messages")
    assert "places for 1 pictures" in error and str(Path(demo_bundle.folder)) not in error


def test_fuzzed_bodies_leave_the_server_answering(served: tuple[Server, Client]) -> None:
    """A share of what ``python benchmarks/serving/soak.py BUNDLE --fuzz 10000`` sends."""
    import fuzzed

    server, client = served
    statuses = fuzzed.send(client, 200, seed=1, model="demo")
    assert set(statuses) <= {200, 400, 404, 413, 415}, statuses
    assert client.chat(**{**HELLO, "messages": user(CASE.prompt, *CASE.images), "max_tokens": 9}).text == CASE.answer
    end = time.monotonic() + 20  # a row leaves after its last word was sent
    while (left := (server.engine.running, server.engine.waiting)) != (0, 0) and time.monotonic() < end:
        time.sleep(0.01)
    assert left == (0, 0)
