"""A client that does not read its stream: what waits for it is bounded, and its row is freed."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import tiny_bundle
from running import serving

from luvc_export.runtime.session import Session
from luvc_export.serve.engine.jobs import Piece
from luvc_export.serve.http.sending import MOST_EVENTS, Mailbox
from luvc_export.serve.models import Models, ServedModel
from luvc_export.serve.options import ServeOptions


def test_events_that_nobody_takes_are_bounded_and_end_the_answer() -> None:
    ends: list[str] = []

    async def unread() -> int:
        mailbox = Mailbox()
        mailbox.overrun = lambda: ends.append("cancelled")
        for number in range(3 * MOST_EVENTS):
            mailbox.tell(Piece(0, str(number), ()))
        await asyncio.sleep(0)
        count = 0
        while await mailbox.next(1) is not None:
            count += 1
        return count

    assert asyncio.run(unread()) == MOST_EVENTS
    assert ends == ["cancelled"]


def test_who_reads_nothing_is_cut_and_others_are_answered(tmp_path: Path) -> None:
    """The application is called as uvicorn does for a client whose buffers are full: ``send`` does not return."""
    assert ServeOptions().stream_timeout == 30
    session = Session(tiny_bundle.write(tmp_path / "tiny"), "cpu", threads=1)
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 30}
    headers = {"host": "localhost", "content-type": "application/json"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "client": ("::1", 1),
    }
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    body = json.dumps({**asked, "stream": True, "logit_bias": {tiny_bundle.END_TOKEN: -100}}).encode()
    full, sent = asyncio.Event(), list[str]()

    async def unread() -> float:
        bodies = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            return next(bodies, None) or await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] == "http.response.body":
                full.set()
                await asyncio.sleep(60)

        begin = time.monotonic()
        await server.app(scope, receive, send)
        return time.monotonic() - begin

    with serving(Models([ServedModel("tiny", session)]), rows=1, stream_timeout=0.5) as (server, client):
        alone = client.chat(**asked, temperature=0).json()["choices"]
        assert asyncio.run(unread()) < 30 and full.is_set()
        assert sent == ["http.response.start", "http.response.body"]
        assert client.chat(**asked, temperature=0).json()["choices"] == alone
        assert not server.engine.running
