"""Chat completions over a socket: whole answers, streams, what is counted, what official clients look at."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import Client, data_uri, user
from heavy_patterns import TOO_HEAVY, string_of
from PIL import Image
from running import serving

from luvc_export.demo.questions import cases
from luvc_export.runtime.session import Session
from luvc_export.serve.models import Models
from luvc_export.serve.server import Server
from luvc_export.version import VERSION

CASE = next(cases("heldout", 1, 0, ("where_is",)))
GOLDEN = Path(__file__).with_name("golden.sse")


def asked(case: Any = CASE, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": user(case.prompt, *case.images), **more}


def test_questions_of_all_kinds_eight_at_a_time_are_answered_as_alone(client: Client, demo_session: Session) -> None:
    questions = list(cases("heldout", 28))
    wanted = [demo_session.generate(list(case.images), case.prompt).text for case in questions]
    with ThreadPoolExecutor(8) as pool:
        assert [reply.text for reply in pool.map(lambda case: client.chat(**asked(case)), questions)] == wanted


def plain(raw: bytes) -> str:
    """A stream without what differs from run to run."""
    text = re.sub(r'"chatcmpl-[0-9a-f]+"', '"chatcmpl-ID"', raw.decode()).replace(f"luvc-{VERSION}", "luvc-VERSION")
    text = re.sub(r'"created":\d+', '"created":0', text)
    text = re.sub(r'_ms":[0-9.e-]+', '_ms":0', text)
    return re.sub(r'"cache":"\w+"', '"cache":"?"', re.sub(r'"cached_tokens":\d+', '"cached_tokens":0', text))


def test_a_stream_is_the_golden_file_byte_for_byte(client: Client) -> None:
    """The file was written by this server, compared with OpenAI's reference by eye, and kept."""
    request = asked(stream=True, stream_options={"include_usage": True})
    connection, answer = client.open("POST", "/v1/chat/completions", json.dumps(request).encode())
    raw = answer.read()
    connection.close()
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache" and answer.headers["x-request-id"].startswith("req_")
    assert plain(raw) == GOLDEN.read_bytes().decode()


def test_a_whole_answer_has_all_that_clients_look_at(client: Client, demo_session: Session) -> None:
    reply = client.chat(**asked())
    body = reply.json()
    assert reply.headers["x-request-id"].startswith("req_") and body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"], abs(body["created"] - time.time()) < 60) == ("chat.completion", "demo", True)
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": CASE.answer, "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    alone, plan = demo_session.generate(list(CASE.images), CASE.prompt), demo_session.plan
    request = demo_session.prepare(list(CASE.images), CASE.prompt)
    usage = body["usage"]
    assert usage["prompt_tokens"] == len(request.token_ids) - 1 + plan.units, "counted without compression"
    assert usage["completion_tokens"] == len(alone.token_ids)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    visual = usage["luvc"]["visual_tokens"]
    assert (visual["before"], tuple(visual["layers"])) == (plan.units, alone.visual_tokens)
    assert set(body["timings"]) == {
        "prepare_ms", "queue_ms", "vision_ms", "prefix_ms", "question_ms", "ttft_ms", "decode_ms", "cache",
    }  # fmt: skip


def test_a_picture_seen_before_is_not_encoded_again(client: Client) -> None:
    picture = np.random.default_rng(5).integers(0, 256, (252, 336, 3)).astype(np.uint8)
    first, second = (client.chat(model="demo", messages=user(text, picture)).json() for text in ("a?", "b?"))
    assert (first["timings"]["cache"], second["timings"]["cache"]) == ("none", "prefix")
    assert (
        second["timings"]["vision_ms"] < 0.1 * first["timings"]["vision_ms"]
        and second["usage"]["prompt_tokens_details"]["cached_tokens"] > 108
    )
    assert client.metric("luvc_image_cache_hits_total") > 0


def test_several_turns_and_pictures_inside_the_text(client: Client, demo_session: Session) -> None:
    first = CASE.images[0]
    turns = [
        {"role": "system", "content": "Short answers."},
        *user(CASE.prompt, first),
        {"role": "assistant", "content": CASE.answer},
        {"role": "user", "content": [{"type": "text", "text": "digit of red?"}]},
    ]
    parts = [{"type": "image"}, {"type": "text", "text": CASE.prompt}]
    own = [
        {"role": "system", "content": [{"type": "text", "text": "Short answers."}]},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": CASE.answer}]},
        {"role": "user", "content": [{"type": "text", "text": "digit of red?"}]},
    ]
    assert client.chat(model="demo", messages=turns).text == demo_session.generate([first], messages=own).text


def test_stop_seed_and_length(client: Client) -> None:
    choice = client.chat(**asked(stop=[" column"])).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("row two", "stop")
    choice = client.chat(**asked(max_completion_tokens=2)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("row two", "length")
    drawn = [client.chat(**asked(temperature=2, seed=seed, max_tokens=8)).text for seed in (7, 7, 8, 9)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    assert client.chat(**asked(temperature=0, top_p=0.5)).text == CASE.answer, "nothing is drawn at 0"


def test_choices_and_logprobs(client: Client, demo_session: Session) -> None:
    body = client.chat(**asked(n=3, logprobs=True, top_logprobs=2)).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in body["choices"]} == {CASE.answer}
    content = body["choices"][1]["logprobs"]["content"]
    assert "".join(one["token"] for one in content) == CASE.answer
    assert b"".join(bytes(one["bytes"]) for one in content).decode() == CASE.answer
    alone = demo_session.generate(list(CASE.images), CASE.prompt, logprobs=2).logprobs
    assert alone is not None
    for one, own in zip(content, alone, strict=False):
        assert one["logprob"] == pytest.approx(own.logprob, abs=1e-3)
        assert one["top_logprobs"][0]["token"] == one["token"] and len(one["top_logprobs"]) == 2
    streamed = [event["choices"][0] for event in client.events(**asked(logprobs=True)) if event["choices"]]
    tokens = [one["token"] for choice in streamed if choice["logprobs"] for one in choice["logprobs"]["content"]]
    assert tokens == [one["token"] for one in content]


def test_json_and_patterns(client: Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    assert json.loads(client.chat(**asked(response_format=shape)).text)["n"] in (1, 2)
    shape = {"type": "regex", "regex": "(left|right) [0-9]"}
    assert re.fullmatch(shape["regex"], client.chat(**asked(response_format=shape)).text)
    pieces = list(client.events(**asked(response_format=shape)))
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in pieces if event["choices"])
    assert re.fullmatch(shape["regex"], text) and len(pieces) > 4, "streamed as it grows"
    refused = client.chat(**asked(response_format={"type": "regex", "regex": "("}))
    assert refused.status == 400 and refused.json()["error"]["param"] == "response_format"


def test_a_grammar_of_too_much_work_is_no_answer(client: Client) -> None:
    """Once a status of 200 and finish_reason stop, with half a string."""
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": string_of(TOO_HEAVY)}}
    error = client.chat(**asked(response_format=shape)).json()["error"]
    assert error["param"] == "response_format" and "too much work" in error["message"], error
    body = json.dumps(asked(response_format=shape, stream=True)).encode()
    streamed = client.call("POST", "/v1/chat/completions", body).body.decode()
    assert "too much work" in streamed and '"finish_reason":"stop"' not in streamed


def test_survivors_are_what_generate_says(client: Client, demo_session: Session) -> None:
    survivors = client.chat(**asked(luvc={"survivors": True})).json()["luvc"]["survivors"]
    alone = demo_session.generate(list(CASE.images), CASE.prompt).selection
    assert alone.merged_into is not None and len(survivors) == 1
    assert survivors[0]["merged_into"] == alone.merged_into[0].tolist() and survivors[0]["medium"] == 0
    assert survivors[0]["kept"]["0"] == alone.kept[0][0].tolist() and survivors[0]["kept"]["5"] == []
    assert "luvc" not in client.chat(**asked()).json()


@pytest.mark.parametrize("field", ["luvc", "mm_processor_kwargs"])
def test_a_picture_has_a_ceiling(client: Client, demo_session: Session, field: str) -> None:
    units, (height, width) = demo_session.plan.units, demo_session.size
    name, enough, less = "image_tokens", units, units - 1
    if field == "mm_processor_kwargs":
        name, enough, less = "max_pixels", height * width, height * width - 1
    assert client.chat(**asked(**{field: {name: enough}})).text == CASE.answer
    refused = client.chat(**asked(**{field: {name: less}}))
    message = refused.json()["error"]["message"]
    assert refused.status == 400 and f"at least {units} ({height}x{width})" in message, message


def test_models(client: Client) -> None:
    listed = client.call("GET", "/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["demo", "demo#none"]
    for name in ("demo", "demo%23none"):
        model = client.call("GET", f"/v1/models/{name}").json()
        assert model["object"] == "model" and model["luvc"]["input_modalities"] == ["text", "image"]
    assert model["luvc"]["visual_tokens"] == {"before": 108, "encoder": 108, "layers": [108] * 6}
    gone = client.call("GET", "/v1/models/dmeo")
    assert gone.status == 404 and "did you mean 'demo'" in gone.json()["error"]["message"]
    assert client.chat(**{**asked(), "model": "demo#none"}).text == CASE.answer


def test_a_gif_is_a_picture_and_no_video_here(client: Client) -> None:
    buffer = io.BytesIO()
    frames = [Image.fromarray(CASE.images[0]).quantize(), Image.new("P", (336, 252), 3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100)
    url = "data:image/gif;base64," + base64.b64encode(buffer.getvalue()).decode()
    for kind, good in (("image_url", 200), ("video_url", 400)):
        content = [{"type": kind, kind: {"url": url}}, {"type": "text", "text": CASE.prompt}]
        reply = client.chat(model="demo", messages=[{"role": "user", "content": content}])
        assert reply.status == good, reply.body
    assert "takes no video" in reply.json()["error"]["message"]


def test_metrics_and_health(client: Client) -> None:
    client.chat(**asked())
    text = client.call("GET", "/metrics").body.decode()
    for name in ("requests_total", "queue", "rows", "ttft_seconds_bucket", "inter_token_seconds_sum",
                 "vision_seconds_count", "prefill_seconds_count", "visual_tokens_total", "completion_tokens_total",
                 "image_cache_hits_total", "image_cache_bytes", "anonymous_bytes"):  # fmt: skip
        assert f"\nluvc_{name}" in text, name
    assert client.call("GET", "/health").status == client.call("GET", "/ready").status == 200


def wait(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_client_that_hangs_up_frees_its_row(served: tuple[Server, Client], demo_session: Session) -> None:
    server, client = served
    forced = {"max_tokens": 100, "logit_bias": {str(end): -100 for end in demo_session.default.ends}}
    for stream in (True, False):
        body = json.dumps(asked(stream=stream, **forced)).encode()
        with socket.create_connection((client.host, client.port)) as raw:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            wait(lambda: server.engine.running == 1)
        wait(lambda: server.engine.running == 0)
    assert client.chat(**asked()).text == CASE.answer


def test_what_runs_is_finished_when_the_server_ends(models: Models, demo_session: Session) -> None:
    forced = {"max_tokens": 60, "logit_bias": {str(end): -100 for end in demo_session.default.ends}}
    with serving(models) as (server, client), ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: client.chat(**asked(**forced)))
        wait(lambda: server.engine.running == 1)
        server.stop()
        assert running.result().json()["usage"]["completion_tokens"] == 60


def test_data_addresses_are_small_enough_to_read() -> None:
    assert data_uri(CASE.images[0]).startswith("data:image/png;base64,")
