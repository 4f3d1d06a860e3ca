"""Prompts as they are, lists of them, tokens; and what tokens a text has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from calling import Client, Reply

from luvc_export.serve.server import Server


def complete(client: Client, **request: Any) -> Reply:
    return client.call("POST", "/v1/completions", json.dumps({"model": "demo", **request}).encode())


def post(client: Client, path: str, **request: Any) -> Reply:
    return client.call("POST", path, json.dumps({"model": "demo", **request}).encode())


def test_a_prompt_goes_on(client: Client) -> None:
    body = complete(client, prompt="<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", max_tokens=6).json()
    chat = client.chat(model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=6)
    (choice,) = body["choices"]
    assert body["object"] == "text_completion" and body["id"].startswith("cmpl-")
    assert (choice["text"], choice["index"], choice["logprobs"]) == (chat.text, 0, None)
    assert body["usage"]["prompt_tokens"] == chat.json()["usage"]["prompt_tokens"]
    assert (
        len(complete(client, prompt="row", ignore_eos=True).json()["usage"])
        and complete(client, prompt="row", ignore_eos=True).json()["usage"]["completion_tokens"] == 16
    )


def test_lists_of_prompts_are_counted_with_n(client: Client) -> None:
    alone = [
        complete(client, prompt=prompt, max_tokens=4).json()["choices"][0]["text"] for prompt in ("row", "digit of")
    ]
    ids = post(client, "/tokenize", prompt="digit of").json()["tokens"]
    body = complete(client, prompt=["row", "digit of"], n=2, max_tokens=4, seed=1).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in body["choices"]] == [alone[0]] * 2 + [alone[1]] * 2
    assert complete(client, prompt=ids, max_tokens=4).json()["choices"][0]["text"] == alone[1]
    assert complete(client, prompt=[ids, ids], max_tokens=4).json()["choices"][1]["text"] == alone[1]
    raw = complete(
        client, prompt=["row", "digit of"], max_tokens=4, stream=True, stream_options={"include_usage": True}
    )
    events = [json.loads(line[6:]) for line in raw.body.decode().splitlines() if line.startswith("data: {")]
    texts = [
        "".join(one["text"] for event in events for one in event["choices"] if one["index"] == at) for at in (0, 1)
    ]
    assert texts == alone and raw.body.endswith(b"data: [DONE]\n\n") and events[-1]["usage"]["completion_tokens"] > 2


def test_echo_and_logprobs(client: Client) -> None:
    (choice,) = complete(client, prompt="row", echo=True, logprobs=2, max_tokens=3).json()["choices"]
    assert choice["text"].startswith("row") and len(choice["logprobs"]["tokens"]) == 3
    assert choice["logprobs"]["text_offset"][0] == 3 and len(choice["logprobs"]["top_logprobs"][0]) == 2


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"prompt": None}, "prompt", "you must provide prompt"),
        ({"prompt": 3}, "prompt", "text, tokens, or a list"),
        ({"prompt": []}, "prompt", "text, tokens, or a list"),
        ({"prompt": [1, "a"]}, "prompt", "text, tokens, or a list"),
        ({"prompt": [10**6]}, "prompt[0]", "there is no token 1000000"),
        ({"prompt": ["a", [1, -1]]}, "prompt[1][1]", "there is no token -1"),
        ({"prompt": "<|image_pad|>"}, "prompt", "has a picture's place"),
        ({"prompt": [5]}, "prompt", "has a picture's place"),
        ({"prompt": ["a"] * 9, "n": 4}, "prompt", "there are 36 answers, prompts times n; expected: at most 32"),
        ({"logprobs": 6}, "logprobs", "0 to 5"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"best_of": 3}, "best_of", "see n"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages", "see prompt"),
        ({"prompt": "a " * 1000}, "prompt", "longer than"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client: Client, change: dict[str, Any], param: str, words: str) -> None:
    reply = complete(client, **{"prompt": "a", **change})
    error = reply.json()["error"]
    assert (reply.status, error["param"]) == (400, param) and words in error["message"], error


def test_tokens_of_texts_and_chats(client: Client) -> None:
    body = post(client, "/tokenize", prompt="where is 3?", return_token_strs=True).json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"]) and body["max_model_len"] > 0
    assert post(client, "/detokenize", tokens=body["tokens"]).json() == {"prompt": "where is 3?"}
    messages = [{"role": "user", "content": "Hello"}]
    chat = post(client, "/tokenize", messages=messages).json()
    usage = client.chat(model="demo", messages=messages, max_tokens=1).json()["usage"]
    assert chat["count"] == usage["prompt_tokens"]
    text = post(client, "/detokenize", tokens=chat["tokens"]).json()["prompt"]
    assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert post(client, "/tokenize", messages=messages, tools=tools).json()["count"] > chat["count"]


PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}


@pytest.mark.parametrize(
    ("path", "request_", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "a" * 10**6}, "prompt"),
        ("/tokenize", {"messages": [PICTURE]}, "messages[0].content[0]"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens[0]"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ],
)
def test_tokens_that_cannot_be(client: Client, path: str, request_: dict[str, Any], param: str) -> None:
    reply = post(client, path, **request_)
    assert (reply.status, reply.json()["error"]["param"]) == (400, param), reply.body


def test_what_runs_and_how_much(client: Client) -> None:
    from luvc_export.version import VERSION

    assert client.call("GET", "/version").json() == {"version": VERSION}
    assert client.call("GET", "/ping").status == client.call("POST", "/ping").status == 200
    assert client.call("GET", "/load").json() == {"server_load": 0}


def test_a_newcomers_room_is_for_one_answer(served: tuple[Server, Client]) -> None:
    """Who asks for the first time has a place where the queue is full; thirty prompts have not."""
    server, client = served
    engine = server.engine
    taken = [engine.reserve(0) for _ in range(server.options.queue + server.options.rows)]
    try:
        assert complete(client, prompt=["row"] * 30, max_tokens=1).status == 429
        assert complete(client, prompt="row", max_tokens=1).status == 200
    finally:
        for _ in range(sum(taken)):
            engine.release()
