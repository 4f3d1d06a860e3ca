"""Films over a socket: how much of each was looked at stands in the answer and in the line of the request."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import Any

import film_bundle
import pytest
from running import serving

from luvc_export.bundle.folder import Bundle
from luvc_export.runtime.session import Session
from luvc_export.serve import request_log
from luvc_export.serve.models import Models, ServedModel


def test_a_film_longer_than_is_looked_at_is_said(demo_bundle: Bundle) -> None:
    session = Session(film_bundle.taking_films(demo_bundle), "cpu", "even", threads=1)
    films = [base64.b64encode(film_bundle.animation(count, 100)).decode() for count in (40, 2)]
    parts: list[dict[str, Any]] = [
        {"type": "video_url", "video_url": {"url": f"data:image/gif;base64,{film}"}} for film in films
    ]
    out = io.StringIO()
    with serving(Models([ServedModel("demo", session)])) as (_, client):
        request_log.configure("json", quiet=False, stream=out)

        def usage(*content: dict[str, Any]) -> dict[str, Any]:
            messages = [{"role": "user", "content": [*content, {"type": "text", "text": "what?"}]}]
            reply = client.chat(model="demo", messages=messages, max_tokens=2)
            assert reply.status == 200, reply.body
            answered: dict[str, Any] = reply.json()["usage"]["luvc"]
            return answered

        long, short = usage(*parts)["videos"]
        assert "videos" not in usage()
        content = [*parts[:1], {"type": "input_text", "text": "what?"}]
        body = {"model": "demo", "input": [{"role": "user", "content": content}], "max_output_tokens": 2}
        reply = client.call("POST", "/v1/responses", json.dumps(body).encode())
        assert reply.json()["usage"]["luvc"]["videos"] == [long]
    most = session.video_frames()
    assert (long["frames"], long["of"], short["frames"], short["of"]) == (most, 40, 2, 2)
    assert (long["seconds"], long["every_seconds"]) == pytest.approx((4, 4 / most))
    end = time.monotonic() + 20
    while len(lines := [json.loads(line) for line in out.getvalue().splitlines()]) < 3:
        assert time.monotonic() < end, lines
        time.sleep(0.01)
    assert lines[0]["video"] == (
        f"longer than is looked at: {most} of 40 frames, one every {4 / most:.3g} s of 4 s; all 2 frames, 10 a second"
    )
    assert "video" not in lines[1]
