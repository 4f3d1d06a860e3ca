"""What one official client sees of the server. Runs in that client's environment; facts come on standard input."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LANGCHAIN_TRACING_V2="false", DO_NOT_TRACK="1")
_real = socket.getaddrinfo


def near(host: Any, *rest: Any, **more: Any) -> Any:
    """No name is looked up but this machine's: the checks run without a network, and fail where a client wants one."""
    name = host.decode() if isinstance(host, bytes) else host
    if name not in (None, "localhost", "127.0.0.1", "::1"):
        raise OSError(f"{name} was looked up")
    return _real(host, *rest, **more)


socket.getaddrinfo = near

Facts = dict[str, str]


def picture(facts: Facts, text: str | None = None) -> list[Any]:
    """One question about the picture."""
    content = [
        {"type": "image_url", "image_url": {"url": facts["picture"], "detail": "low"}},
        {"type": "text", "text": text or facts["question"]},
    ]
    return [{"role": "user", "content": content}]


class Twice(BaseHTTPRequestHandler):
    """Says 429 the first time and answers the second: what ``Retry-After`` is for."""

    calls = 0

    def do_POST(self) -> None:
        """One call."""
        self.rfile.read(int(self.headers["content-length"]))
        type(self).calls += 1
        body = b'{"error": {"message": "busy", "type": "requests", "param": null, "code": "rate_limit_exceeded"}}'
        status = 429
        if type(self).calls > 1:
            message = {"role": "assistant", "content": "late"}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "x", "choices": [choice]}
            status, body = 200, json.dumps(whole).encode()
        self.send_response(status)
        for name, value in (("content-type", "application/json"), ("retry-after", "1"), ("content-length", len(body))):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *told: object) -> None:
        """Quiet."""


def openai(facts: Facts) -> None:
    """The official client."""
    from openai import BadRequestError, NotFoundError, OpenAI

    client = OpenAI(base_url=facts["url"], api_key="none", timeout=120)
    asked: dict[str, Any] = {"model": facts["model"], "messages": picture(facts)}
    assert [model.id for model in client.models.list()] == [facts["model"]]
    assert client.models.retrieve(facts["model"]).owned_by == "luvc-export"
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == facts["answer"] and whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None and whole.usage.total_tokens > whole.usage.completion_tokens > 0
    assert whole._request_id is not None and whole._request_id.startswith("req_")
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == facts["answer"]
    assert pieces[0].choices[0].delta.role == "assistant" and len(pieces) > 4
    assert pieces[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": pieces[-1].usage.prompt_tokens_details}
    )
    assert all(piece.usage is None for piece in pieces[:-1])
    stopped = client.chat.completions.create(**asked, stop=[" column"], max_completion_tokens=20)
    assert stopped.choices[0].message.content == facts["answer"].split(" column")[0]
    drawn = [client.chat.completions.create(**asked, temperature=2, seed=7, max_tokens=6) for _ in range(2)]
    assert drawn[0].choices[0].message.content == drawn[1].choices[0].message.content
    told = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, n=2)
    logprobs = told.choices[1].logprobs
    assert logprobs is not None and logprobs.content is not None and len(logprobs.content[0].top_logprobs) == 3
    assert "".join(one.token for one in logprobs.content) == facts["answer"]
    shape = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": shape, "strict": True}}
    said = client.chat.completions.create(**asked, response_format=wanted).choices[0].message.content
    assert json.loads(said or "")["n"] in (1, 2)
    try:
        client.chat.completions.create(**asked, tools=[{"type": "function", "function": {"name": "f"}}])
        raise AssertionError("tools were taken")
    except BadRequestError as error:
        assert error.param == "tools" and error.code == "unsupported_parameter"
    try:
        client.chat.completions.create(**{**asked, "model": "gone"})
        raise AssertionError("an unknown model was taken")
    except NotFoundError as error:
        assert error.code == "model_not_found"
    busy = HTTPServer(("127.0.0.1", 0), Twice)
    threading.Thread(target=busy.serve_forever, daemon=True).start()
    patient = OpenAI(base_url=f"http://127.0.0.1:{busy.server_port}", api_key="none")
    assert patient.chat.completions.create(**asked).choices[0].message.content == "late" and Twice.calls == 2
    busy.shutdown()


def langchain(facts: Facts) -> None:
    """LangChain's chat model."""
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=facts["model"], base_url=facts["url"], api_key="none", temperature=0, timeout=120)  # type: ignore[arg-type]
    whole = model.invoke(picture(facts))
    assert whole.content == facts["answer"], whole
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] > 0
    pieces = list(model.stream(picture(facts), stream_usage=True))
    assert "".join(str(piece.content) for piece in pieces) == facts["answer"] and len(pieces) > 3
    assert any(piece.usage_metadata for piece in pieces)
    assert model.bind(stop=[" column"]).invoke(picture(facts)).content == facts["answer"].split(" column")[0]
    assert "logprobs" in model.bind(logprobs=True).invoke(picture(facts)).response_metadata
    shape = {"title": "x", "type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    made = model.with_structured_output({**shape, "additionalProperties": False}, method="json_schema")
    assert made.invoke(picture(facts))["n"] in (1, 2)  # type: ignore[index]
    try:
        model.bind(tools=[{"type": "function", "function": {"name": "f"}}]).invoke(picture(facts))
        raise AssertionError("tools were taken")
    except Exception as error:
        assert "tools is not supported" in str(error), error


def litellm(facts: Facts) -> None:
    """litellm, as a library."""
    import litellm as library

    asked: dict[str, Any] = {"model": f"openai/{facts['model']}", "messages": picture(facts)}
    asked |= {"api_base": facts["url"], "api_key": "none"}
    whole = library.completion(**asked)
    assert whole.choices[0].message.content == facts["answer"] and whole.usage.completion_tokens > 0
    pieces = list(library.completion(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == facts["answer"]
    stopped = library.completion(**asked, stop=[" column"], seed=3, temperature=0)
    assert stopped.choices[0].message.content == facts["answer"].split(" column")[0]
    told = library.completion(**asked, logprobs=True, top_logprobs=2)
    assert len(told.choices[0].logprobs.content[0].top_logprobs) == 2
    try:
        library.completion(**{**asked, "model": "openai/gone"})
        raise AssertionError("an unknown model was taken")
    except library.NotFoundError:
        pass


CHECKS: dict[str, Callable[[Facts], None]] = {"openai": openai, "langchain": langchain, "litellm": litellm}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](json.load(sys.stdin))
    print(f"{sys.argv[1]}: pictures, streaming, stop, logprobs, usage, errors")
