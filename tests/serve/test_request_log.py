"""A line a request: what is in it, in which form, and what counts beside it."""

from __future__ import annotations

import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from calling import Client, user
from running import serving

from luvc_export.demo.questions import cases
from luvc_export.runtime.session import Session
from luvc_export.serve import request_log
from luvc_export.serve.metrics import VLLM
from luvc_export.serve.models import Models
from luvc_export.serve.server import Server

CASE = next(cases("heldout", 1, 0, ("where_is",)))


@pytest.fixture
def own(models: Models) -> Iterator[tuple[Server, Client]]:
    with serving(models) as server:
        yield server


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": user(CASE.prompt, *CASE.images), **more}


def lines(out: io.StringIO, count: int) -> list[dict[str, Any]]:
    end = time.monotonic() + 20  # a line follows the answer it is about
    while len(written := out.getvalue().splitlines()) < count:
        assert time.monotonic() < end, written
        time.sleep(0.01)
    return [json.loads(line) for line in written]


def test_json_lines(own: tuple[Server, Client]) -> None:
    _, client = own
    out = io.StringIO()
    request_log.configure("json", quiet=False, stream=out)
    reply = client.chat(**asked())
    usage = reply.json()["usage"]
    (line,) = lines(out, 1)
    assert line["request_id"] == reply.headers["x-request-id"] and line["level"] == "info"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/chat/completions", 200)
    assert (line["model"], line["client"], line["finish_reason"]) == ("demo", "127.0.0.1", "stop")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert 0 < line["ttft_ms"] <= line["total_ms"] and line["queue_ms"] >= 0 and line["decode_ms"] >= 0
    list(client.events(**asked(max_tokens=2)))
    assert client.chat(**asked(model="gone")).status == 404
    assert client.call("GET", "/health").status == 200
    assert client.call("GET", "/nothing").status == 404
    _, streamed, refused, lost = lines(out, 4)
    assert (streamed["stream"], streamed["finish_reason"], streamed["completion_tokens"]) == (True, "length", 2)
    assert (refused["status"], refused["error"]) == (404, "model_not_found") and "model" not in refused
    assert lost["path"] == "/nothing", "who looks at /health every second leaves no line"


@pytest.mark.parametrize(("sent", "kept"), [("trace-1.a:b_c", True), ("a b", False), ("x" * 129, False), ("", False)])
def test_a_request_keeps_its_own_id(client: Client, sent: str, kept: bool) -> None:
    for path in ("/v1/models", "/nothing"):
        reply = client.call("GET", path, headers={"x-request-id": sent}).headers["x-request-id"]
        assert (reply == sent) is kept and (kept or reply.startswith("req_"))


def test_text_lines_stay_lines() -> None:
    out = io.StringIO()
    request_log.configure("text", quiet=False, stream=out)
    record = request_log.RequestRecord("req_1", "GET", "/a\nb\x1b[2J c", "127.0.0.1", status=404, error="unknown_url")
    record.write()
    (line,) = [one for one in out.getvalue().splitlines() if "request_id=req_1" in one]  # not another test's server's
    assert " info request request_id=req_1 client=127.0.0.1 method=GET" in line
    assert r'path="/a\nb\u001b[2J c" status=404 error=unknown_url' in line and "\x1b" not in line


def test_who_watches_leaves_no_line_while_models_load() -> None:
    out = io.StringIO()
    request_log.configure("json", quiet=False, stream=out)
    for error in ("not_ready", "internal_error"):
        request_log.RequestRecord("req_1", "GET", "/ready", "127.0.0.1", status=503, error=error).write()
    (line,) = [json.loads(one) for one in out.getvalue().splitlines() if '"req_1"' in one]  # of no other test's server
    assert line["error"] == "internal_error"


def test_quiet_keeps_what_is_wrong() -> None:
    out = io.StringIO()
    request_log.configure("json", quiet=True, stream=out)
    request_log.RequestRecord("req_1", "GET", "/", "127.0.0.1", status=200).write()
    try:
        raise ValueError("broken")
    except ValueError:
        request_log.LOG.exception("request %s", "req_1")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    wrong, strange = map(json.loads, out.getvalue().splitlines())
    assert "ValueError: broken" in wrong["exception"] and wrong["message"] == "request req_1"
    assert strange["level"] == "warning"


def test_what_is_counted(own: tuple[Server, Client], demo_session: Session) -> None:
    server, client = own
    out = io.StringIO()
    request_log.configure("json", quiet=False, stream=out)
    usage = client.chat(**asked()).json()["usage"]
    cached = client.chat(**asked(max_tokens=2, n=2)).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    body = json.dumps(asked(logit_bias={str(end): -100 for end in demo_session.default.ends})).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection((client.host, client.port)) as raw:
        raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        while server.engine.running == 0:
            time.sleep(0.01)
    gone = lines(out, 3)[2]
    assert (gone["status"], gone["cancelled"]) == (499, True)
    while server.engine.running:  # its row leaves before the next step
        time.sleep(0.01)
    text = client.call("GET", "/metrics").body.decode()
    for line in (
        f'luvc_prompt_tokens_total{{model="demo"}} {2.0 * usage["prompt_tokens"]}',
        'luvc_request_success_total{finished_reason="stop",model="demo"} 1.0',
        'luvc_request_success_total{finished_reason="length",model="demo"} 2.0',
        'luvc_requests_cancelled_total{path="/v1/chat/completions"} 1.0',
        'luvc_e2e_request_latency_seconds_count{model="demo"} 2.0',
        'luvc_time_to_first_token_seconds_count{model="demo"} 3.0',
        'luvc_request_queue_time_seconds_count{model="demo"} 3.0',
        "luvc_num_requests_waiting 0.0",
        "luvc_kv_cache_usage_perc 0.0",
        'luvc_request_generation_tokens_count{model="demo"} 3.0',
        f'luvc_request_generation_tokens_sum{{model="demo"}} {usage["completion_tokens"] + 4.0}',
        'luvc_request_time_per_output_token_seconds_count{model="demo"} 3.0',
        'luvc_request_decode_time_seconds_count{model="demo"} 3.0',
        'luvc_request_prefill_time_seconds_count{model="demo"} 3.0',
        f'luvc_request_prompt_tokens_sum{{model="demo"}} {3.0 * usage["prompt_tokens"]}',
        f'luvc_prefix_cache_queries_total{{model="demo"}} {3.0 * usage["prompt_tokens"]}',
        f'luvc_prefix_cache_hits_total{{model="demo"}} {2.0 * cached}',
    ):
        assert f"\n{line}\n" in text, line
    assert '\nluvc_build_info{python="' in text
    assert client.metric("luvc_inter_token_latency_seconds_count") >= usage["completion_tokens"] - 1 + 2
    mean = client.metric("luvc_request_time_per_output_token_seconds_sum") / 3
    assert 0 < mean < client.metric("luvc_e2e_request_latency_seconds_sum")
    assert client.metric("luvc_generation_tokens_total") == client.metric("luvc_completion_tokens_total") > 8


def test_what_vllm_counts_too_has_its_names(own: tuple[Server, Client]) -> None:
    """Dashboards and autoscalers ask for them: the same samples, labels as vLLM's."""
    _, client = own
    client.chat(**asked())
    text = client.call("GET", "/metrics").body.decode()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    ours, theirs = (
        {
            line.rpartition(" ")[0].removeprefix(prefix): line.rpartition(" ")[2]
            for line in samples
            if line.startswith(prefix)
        }
        for prefix in ("luvc_", "vllm:")
    )
    assert {name.replace("model_name=", "model="): value for name, value in theirs.items()}.items() <= ours.items()
    names = {line.split()[2].removeprefix("vllm:") for line in text.splitlines() if line.startswith("# TYPE vllm:")}
    assert {name.removesuffix("_total") for name in names} == VLLM
    assert 'request_success_total{finished_reason="stop",model_name="demo"}' in theirs


def test_tokens_beyond_what_is_left_are_clipped(client: Client, demo_session: Session) -> None:
    """As other servers do it; the prompt that leaves no room for one token is an error still."""
    forced = {str(end): -100 for end in demo_session.default.ends}
    request = demo_session.prepare(list(CASE.images), CASE.prompt)
    body = client.chat(**asked(max_tokens=10**6, logit_bias=forced)).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == demo_session.token_limit(request)
    assert client.chat(**asked(max_tokens=10**6)).text == CASE.answer
    error = client.chat(model="demo", messages=[{"role": "user", "content": "x " * 1000}]).json()["error"]
    assert error["code"] == "context_length_exceeded" and "fix: " in error["message"]


def test_limits_are_told_once(client: Client) -> None:
    limits = client.call("GET", "/v1/models/demo").json()["luvc"]["limits"]
    assert limits == {
        "body_bytes": 2**25, "picture_bytes": 2**25, "pictures": 16, "picture_pixels": 2**25, "jpeg_pixels": 2**27,
    }  # fmt: skip


def test_a_model_says_what_it_runs_on_and_why(models: Models) -> None:
    running = models.by_name["demo"].runs_on()
    assert running == {
        "model": "demo", "plan": "even", "backend": "cpu", "arithmetic": "fp32", "why": "backend cpu, as --backend says"
    }  # fmt: skip
