"""A full queue: who waits for a place and how long, who is told to come back, and whose turn it is."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from calling import user
from running import serving

from luvc_export.demo.questions import cases
from luvc_export.runtime.engine.feature_cache import FeatureCache
from luvc_export.runtime.session import Session
from luvc_export.serve.engine.loop import Engine
from luvc_export.serve.http.admission import NEWCOMERS, Admission, _Line
from luvc_export.serve.metrics import Metrics
from luvc_export.serve.models import Models
from luvc_export.serve.options import ServeOptions

CASE = next(cases("heldout", 1, 0, ("where_is",)))


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": user(CASE.prompt, *CASE.images), **more}


def test_a_full_queue_is_told_to_come_back(models: Models, demo_session: Session) -> None:
    forced = {"max_tokens": 60, "logit_bias": {str(end): -100 for end in demo_session.default.ends}}
    with serving(models, queue=1, rows=1, queue_wait=0) as (_, client), ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: client.chat(**asked(**forced)), range(8)))
        busy = [reply for reply in replies if reply.status == 429]
        assert busy and len(busy) < 8 and {reply.status for reply in replies} == {200, 429}
        assert busy[0].headers["retry-after"] == "1"
        assert busy[0].json()["error"]["code"] == "rate_limit_exceeded"
        assert client.chat(**asked()).text == CASE.answer


def test_who_comes_to_a_full_queue_waits_a_while(models: Models) -> None:
    with serving(models, queue=1, rows=1, queue_wait=0.5) as (server, client), ThreadPoolExecutor(3) as pool:
        engine = server.engine
        taken = [engine.reserve(NEWCOMERS) for _ in range(NEWCOMERS + 1)]
        assert all(taken), "also a newcomer's place"
        begun = time.monotonic()
        refused = client.chat(**asked())
        assert (refused.status, refused.headers["retry-after"]) == (429, "1") and time.monotonic() - begun >= 0.5
        waits = pool.submit(lambda: client.chat(**asked()).status)
        while not len(server.app.admission._line):
            time.sleep(0.005)
        begun = time.monotonic()
        assert client.chat(**asked()).status == 429 and time.monotonic() - begun < 0.4, "as many wait as the queue has"
        engine.release()
        assert waits.result() == 200
        for _ in taken[1:]:
            engine.release()
        assert client.chat(**asked()).status == 200


def test_those_who_wait_for_the_queue_have_their_turns() -> None:
    """The first of those for whom there is a place, and a place goes back that nobody is there for."""

    async def turns() -> list[str]:
        engine, got = Engine(FeatureCache(0), rows=1, queue=1, observer=Metrics()), list[str]()
        assert engine.reserve()
        line = _Line(engine, lambda client, own: client == "more")

        async def join(name: str, seconds: float = 30) -> None:
            with line.joined(name) as place:
                await asyncio.wait((place,), timeout=seconds)
            got.append(name if place.done() else f"no {name}")

        tasks = [asyncio.ensure_future(join(name)) for name in "abc"]
        await join("late", seconds=0.05)
        await join("more")
        engine.release()
        tasks[0].cancel()  # while nobody has told it
        engine.release()
        await asyncio.wait_for(tasks[1], 10)
        assert not tasks[2].done()
        engine.release()
        await asyncio.wait_for(tasks[2], 10)
        engine.release()
        assert engine.waiting == len(line) == 0
        return got

    assert asyncio.run(turns()) == ["no late", "more", "b", "c"]


def test_a_place_goes_back_where_its_client_left() -> None:
    async def stand(line: _Line) -> None:
        with line.joined(""):
            await asyncio.sleep(30)

    async def left() -> int:
        engine = Engine(FeatureCache(0), rows=1, queue=1, observer=Metrics())
        task = asyncio.ensure_future(stand(_Line(engine, lambda client, own: 0)))
        while not engine.waiting:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return engine.waiting

    assert asyncio.run(left()) == 0


def test_who_fills_the_queue_keeps_nobody_else_out(models: Models, demo_session: Session) -> None:
    """Requests of one client that waited, for films say, were all that the queue took."""
    forced = {"max_tokens": 60, "logit_bias": {str(end): -100 for end in demo_session.default.ends}}
    with serving(models, queue=4, rows=1, queue_wait=0.1) as (_, client), ThreadPoolExecutor(32) as pool:
        greedy = pool.map(lambda _: client.chat(**asked(**forced)).status, range(32))  # at most nine at once
        other, answers = replace(client, source="127.0.0.9"), list[Any]()
        for _ in range(3):
            answers.append(other.chat(**asked()))
        assert {answer.status for answer in answers} == {200}
        assert {answer.text for answer in answers} == {CASE.answer}
        assert 429 in set(greedy)


def test_a_client_of_many_connections_is_a_newcomer_once(models: Models, demo_session: Session) -> None:
    """Each request was taken for its client's only one whose body was read while the others' were."""
    forced = {"max_tokens": 60, "logit_bias": {str(end): -100 for end in demo_session.default.ends}}
    body = json.dumps(asked(**forced)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(models, queue=1, rows=1, queue_wait=0) as (server, client), ExitStack() as stack:
        assert server.engine.reserve()
        address = client.host, client.port
        sockets = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(NEWCOMERS)]
        for each in sockets:
            each.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
        time.sleep(0.3)
        for each in sockets:
            each.sendall(body[-1:])
        statuses = sorted(each.recv(12) for each in sockets)
        assert statuses == [b"HTTP/1.1 200", *[b"HTTP/1.1 429"] * (NEWCOMERS - 1)]
        server.engine.release()


def test_of_a_client_s_requests_in_line_the_first_is_a_newcomer() -> None:
    """Each counted those behind it, so that none was; the next is one when the first has been answered."""

    async def turns() -> list[str]:
        engine, seen = Engine(FeatureCache(0), rows=1, queue=1, observer=Metrics()), list[str]()
        admission = Admission(ServeOptions(queue=1), engine)
        assert engine.reserve()

        async def ask(name: str) -> None:
            admission.asking["a"] += 1
            with admission._line.joined("a") as place:
                await asyncio.wait((place,), timeout=2)
            seen.append(f"{name} placed" if place.done() else f"{name} refused")
            await asyncio.sleep(0.05)
            seen.append(f"{name} answered")
            admission.asking["a"] -= 1
            engine.release()

        await asyncio.gather(*map(ask, "123"))
        admission.close()
        return seen

    assert asyncio.run(turns()) == [f"{name} {what}" for name in "123" for what in ("placed", "answered")]


def test_a_client_that_asks_once_finds_a_place_whoever_waits(models: Models) -> None:
    """Of eight ordinary clients beside nine that sent what they could, some were told to come back."""
    with serving(models, queue=2, rows=1) as (_, client), ThreadPoolExecutor(8) as pool:
        clients = [replace(client, source=f"127.0.0.{number}") for number in range(2, 10)]
        assert [reply.text for reply in pool.map(lambda one: one.chat(**asked()), clients)] == [CASE.answer] * 8
