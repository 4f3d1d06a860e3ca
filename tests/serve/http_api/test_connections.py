"""Clients that say nothing, or half of something: they take nothing away from those that ask."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from calling import Client, user
from running import serving

from luvc_export.demo.questions import cases
from luvc_export.serve.http import connections, reading
from luvc_export.serve.http.admission import NEWCOMERS
from luvc_export.serve.models import Models
from luvc_export.serve.server import Server

CASE = next(cases("heldout", 1, 0, ("where_is",)))
HALF_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
HALF_BODY = HALF_HEAD + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n" + b'{"model": "'


@contextmanager
def open_files(most: int) -> Iterator[None]:
    """Room for as many sockets as a test opens, here and in the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < most:
        pytest.skip(f"the system lets a process open {hard} files, this needs {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(stack: ExitStack, client: Client, data: bytes = b"") -> socket.socket:
    connection = stack.enter_context(socket.create_connection((client.host, client.port), timeout=20))
    if data:
        connection.sendall(data)
    return connection


def hear(channel: socket.socket, end: bytes) -> bytes:
    """What is said up to ``end``, or until nothing more is."""
    heard = b""
    while end not in heard and (part := channel.recv(1000)):
        heard += part
    return heard


def wait(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def own(models: Models) -> Iterator[tuple[Server, Client]]:
    with serving(models, queue=100) as server:
        yield server


@pytest.mark.slow(beside="serve/http_api/test_connections.py::test_who_has_least_to_lose_makes_room")
def test_1000_idle_connections_and_300_half_bodies_take_nothing_from_others(own: tuple[Server, Client]) -> None:
    """With uvicorn's own limit, 256 idle ones have /health answered 503."""
    server, client = own
    asked = {"model": "demo", "messages": user(CASE.prompt, *CASE.images)}
    with open_files(4000), ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        for number in range(1300):
            connect(stack, client, HALF_BODY if number % 13 >= 10 else b"")
            if number % 100 == 99:
                assert client.call("GET", "/health").status == 200, number
        replies = list(pool.map(lambda _: client.chat(**asked), range(100)))
        assert [(reply.status, reply.text) for reply in replies] == [(200, CASE.answer)] * 100
        kept = connections.CONNECTIONS + (1 + NEWCOMERS) * server.options.queue + server.options.rows
        wait(lambda: len(server._uvicorn.server_state.connections) <= kept)


def test_who_has_least_to_lose_makes_room(own: tuple[Server, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = own
    monkeypatch.setattr(server._uvicorn, "_connections", 4)
    with ExitStack() as stack:
        body = connect(stack, client, HALF_BODY)
        head = connect(stack, client, HALF_HEAD)
        seen = server._uvicorn.server_state.connections
        wait(lambda: sorted(each.rank[0] for each in seen if each.rank) == [1, 2])  # type: ignore[union-attr, index]
        idle = [connect(stack, client) for _ in range(4)]
        assert [one.recv(1) for one in idle[:2]] == [b"", b""], "the first that said nothing went first"
        for one in (*idle[2:], head, body):
            one.settimeout(0.3)
            with pytest.raises(TimeoutError):
                one.recv(1)
        monkeypatch.setattr(server._uvicorn, "_connections", 100)  # until all have said what they say
        more = [connect(stack, client, HALF_BODY) for _ in range(4)]
        wait(lambda: [each.rank[0] for each in seen if each.rank].count(2) == 5)  # type: ignore[union-attr, index]
        monkeypatch.setattr(server._uvicorn, "_connections", 4)
        assert [one.recv(1) for one in (*idle[2:], head, body)] == [b""] * 4
        assert len(more) == 4


def test_who_came_before_it_was_told_to_makes_room_first(
    own: tuple[Server, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole requests are never given up for others; those that wait for their time outnumber queue and rows."""
    server, client = own
    monkeypatch.setattr(server._uvicorn, "_connections", 4)
    server.app.admission.asking["127.0.0.2"] += 1  # somebody else asks
    server.app.admission.patience.told("127.0.0.9", {"retry-after": "9"})
    whole = HALF_HEAD + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    with ExitStack() as stack:
        body = connect(stack, client, HALF_BODY)
        early = []
        for _ in range(2):
            address = (client.host, client.port)
            early.append(socket.create_connection(address, timeout=20, source_address=("127.0.0.9", 0)))
            stack.enter_context(early[-1]).sendall(whole)
        seen = server._uvicorn.server_state.connections
        wait(lambda: sorted(each.rank[0] for each in seen if each.rank) == [0, 0, 2])  # type: ignore[union-attr, index]
        more = [connect(stack, client, HALF_BODY) for _ in range(3)]
        assert [one.recv(1) for one in early] == [b"", b""]
        for one in (body, *more):
            one.settimeout(0.3)
            with pytest.raises(TimeoutError):
                one.recv(1)


def test_heads_and_bodies_have_their_time(own: tuple[Server, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = own
    monkeypatch.setattr(connections, "HEAD", 0.6)
    monkeypatch.setattr(reading, "SILENCE", 0.3)
    with ExitStack() as stack:
        assert connect(stack, client).recv(100) == b"", "nothing came, nothing is said"
        slow = connect(stack, client, HALF_HEAD)
        for letter in b"X-Y: zzzzzzzz":  # letters that trickle in do not start the clock anew
            time.sleep(0.1)
            try:
                slow.sendall(bytes([letter]))
            except OSError:
                break
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        assert connect(stack, client, HALF_BODY).recv(100).startswith(b"HTTP/1.1 408 ")
        after = connect(stack, client, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert hear(after, b'"ok"}').startswith(b"HTTP/1.1 200 ")
        time.sleep(0.8)
        after.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")  # kept for long, but half a head is half a head
        assert after.recv(1000).startswith(b"HTTP/1.1 408 ")
        rest = connect(stack, client, HALF_BODY.replace(b"/v1/chat/completions", b"/health"))
        assert hear(rest, b'"}}').startswith(b"HTTP/1.1 405 ")
        assert rest.recv(1) == b"", "the rest of a body that was answered is not waited for"


def test_the_body_that_takes_longest_makes_room_for_others(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else eight clients that send all but the last byte keep everybody else out."""
    monkeypatch.setattr(reading, "GRACE", 0.2)
    head = HALF_HEAD + b"Content-Type: application/json\r\nContent-Length: 20000\r\n\r\n"
    with serving(models, max_body=20_000) as (_, client), ExitStack() as stack:
        first, *others = [connect(stack, client, head + b" " * 19_999) for _ in range(8)]
        young = client.call("POST", "/v1/chat/completions", b" " * 20_000)
        assert young.status in (400, 429)
        time.sleep(0.3)
        late = client.call("POST", "/v1/chat/completions", b" " * 20_000)
        assert (late.status, late.json()["error"]["code"]) == (400, "invalid_json"), late.body
        assert first.recv(100).startswith(b"HTTP/1.1 408 ")
        assert len(others) == 7
