"""The official openai client in Python: chat, streams, responses, structured output, errors, trying again."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Literal

from common import SHAPE, Facts, facts, parts, picture
from openai import BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel


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

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


class Number(BaseModel):
    """A structured answer."""

    n: Literal[1, 2]


def chat(client: OpenAI, facts: Facts) -> None:
    """Chat completions."""
    asked: dict[str, Any] = {"model": facts["model"], "messages": picture(facts)}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == facts["answer"] and whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None and whole.usage.total_tokens > whole.usage.completion_tokens > 0
    assert whole._request_id is not None and whole._request_id.startswith("req_")
    traced = client.chat.completions.create(**asked, extra_headers={"x-request-id": "trace-1"})
    assert traced._request_id == "trace-1"
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == facts["answer"]
    assert pieces[0].choices[0].delta.role == "assistant" and len(pieces) > 4
    assert pieces[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": pieces[-1].usage.prompt_tokens_details}
    )
    assert all(piece.usage is None for piece in pieces[:-1])
    stopped = client.chat.completions.create(**asked, stop=[" column"], max_completion_tokens=20)
    assert stopped.choices[0].message.content == facts["answer"].split(" column")[0]
    clipped = client.chat.completions.create(**asked, max_tokens=10**6)
    assert clipped.choices[0].message.content == facts["answer"]
    drawn = [client.chat.completions.create(**asked, temperature=2, seed=7, max_tokens=6) for _ in range(2)]
    assert drawn[0].choices[0].message.content == drawn[1].choices[0].message.content
    completion = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, n=2)
    logprobs = completion.choices[1].logprobs
    assert logprobs is not None and logprobs.content is not None and len(logprobs.content[0].top_logprobs) == 3
    assert "".join(one.token for one in logprobs.content) == facts["answer"]
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SHAPE, "strict": True}}
    content = client.chat.completions.create(**asked, response_format=wanted).choices[0].message.content
    assert json.loads(content or "")["n"] in (1, 2)
    parsed = client.chat.completions.parse(**asked, response_format=Number).choices[0].message.parsed
    assert parsed is not None and parsed.n in (1, 2)


def responses(client: OpenAI, facts: Facts) -> None:
    """Responses."""
    asked: dict[str, Any] = {"model": facts["model"], "input": parts(facts)}
    whole = client.responses.create(**asked)
    assert (whole.output_text, whole.status) == (facts["answer"], "completed")
    assert whole.usage is not None and whole.usage.total_tokens > whole.usage.output_tokens > 0
    kinds, text = [], ""
    for event in client.responses.create(**asked, stream=True):
        kinds.append(event.type)
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == facts["answer"] and (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    with client.responses.stream(**asked) as stream:  # which builds the answer again from its events
        assert sum(event.type == "response.output_text.delta" for event in stream) > 2
        assert stream.get_final_response().output_text == facts["answer"]
    parsed = client.responses.parse(**asked, text_format=Number).output_parsed
    assert parsed is not None and parsed.n in (1, 2)
    cut = client.responses.create(model=facts["model"], instructions="Short.", input="Hello", max_output_tokens=1)
    assert (cut.status, cut.incomplete_details and cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert client.responses.retrieve(whole.id).output_text == facts["answer"]
    more: Any = {"model": facts["model"], "input": "and now?", "max_output_tokens": 2, "previous_response_id": whole.id}
    assert client.responses.create(**more).previous_response_id == whole.id
    client.responses.delete(whole.id)
    try:
        client.responses.create(**more)
        raise AssertionError("a deleted response was gone on with")
    except BadRequestError as error:
        assert error.param == "previous_response_id", error


def errors(client: OpenAI, facts: Facts) -> None:
    """What cannot be honoured, and trying again where the server says when."""
    asked: dict[str, Any] = {"model": facts["model"], "messages": picture(facts)}
    try:
        client.chat.completions.create(**asked, tools=[{"type": "custom", "custom": {"name": "f"}}])
        raise AssertionError("a custom tool was taken")
    except BadRequestError as error:
        assert error.param == "tools[0].type" and error.code == "unsupported_parameter"
    try:
        client.chat.completions.create(**{**asked, "model": "gone"})
        raise AssertionError("an unknown model was taken")
    except NotFoundError as error:
        assert error.code == "model_not_found"
    completion = client.completions.create(model=facts["model"], prompt=["Hello", "row"], max_tokens=2)
    assert [choice.index for choice in completion.choices] == [0, 1] and completion.usage is not None
    busy = HTTPServer(("127.0.0.1", 0), Twice)
    threading.Thread(target=busy.serve_forever, daemon=True).start()
    patient = OpenAI(base_url=f"http://127.0.0.1:{busy.server_port}", api_key="none")
    assert patient.chat.completions.create(**asked).choices[0].message.content == "late" and Twice.calls == 2
    busy.shutdown()


if __name__ == "__main__":
    known = facts()
    official = OpenAI(base_url=known["url"], api_key="none", timeout=120)
    assert [model.id for model in official.models.list()] == [known["model"]]
    assert official.models.retrieve(known["model"]).owned_by == "luvc-export"
    for check in (chat, responses, errors):
        check(official, known)
