"""Preparation of requests: text beside media, a client beside others, and bytes that wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from luvc_export.serve import preparation as turns
from luvc_export.serve.http import reading
from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.http.reading import BodyReader
from luvc_export.serve.preparation import PLACES, ComingBack, Preparation, client_of

#: Seconds that a thread may be held by what a test forgot to end.
_HELD = 20


def test_text_does_not_wait_for_media_nor_a_client_for_another() -> None:
    """With one pool of four threads, eight films of one client held everybody's text and pictures."""
    holds, order = threading.Event(), list[str]()

    def film() -> None:
        holds.wait(_HELD)

    async def ask() -> None:
        preparation = Preparation()
        films = [asyncio.create_task(preparation.run("media", "greedy", film)) for _ in range(8)]
        await asyncio.sleep(0)
        for kind, client in (("text", "greedy"), ("text", "other"), ("media", "other"), ("adapters", "greedy")):
            work = partial(order.append, f"{kind} {client}")
            await asyncio.wait_for(preparation.run(kind, client, work), _HELD / 2)  # type: ignore[arg-type]
        assert not any(one.done() for one in films)
        holds.set()
        await asyncio.gather(*films)
        preparation.close()

    asyncio.run(ask())
    assert order == ["text greedy", "text other", "media other", "adapters greedy"]


def test_clients_take_turns() -> None:
    """One place for adapters: who asked once is not behind all that another asked before."""
    order, begun = list[str](), threading.Event()

    def work(name: str) -> Callable[[], None]:
        def run() -> None:
            begun.wait(_HELD)
            order.append(name)

        return run

    async def ask() -> None:
        preparation = Preparation()
        names = ["a", "a", "a", "b", "a", "c"]
        tasks = [asyncio.create_task(preparation.run("adapters", name, work(name))) for name in names]
        await asyncio.sleep(0)
        begun.set()
        await asyncio.gather(*tasks)
        preparation.close()

    asyncio.run(ask())
    assert order == ["a", "a", "b", "c", "a", "a"] or order == ["a", "b", "a", "c", "a", "a"], order
    assert PLACES["adapters"] == (1, 1)


def test_who_held_much_leaves_a_place_to_others_however_many_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two addresses held all places for media, and a third waited as long as their films took."""
    monkeypatch.setattr(turns, "MOST_SECONDS", 0.01)
    holds = threading.Event()

    async def ask() -> None:
        preparation = Preparation()
        for name in ("a", "b"):
            await preparation.run("media", name, lambda: time.sleep(0.02))
        films = [asyncio.create_task(preparation.run("media", name, lambda: holds.wait(_HELD))) for name in "aabb"]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(preparation.run("media", "c", lambda: None), _HELD / 2)
        assert not any(film.done() for film in films)
        holds.set()
        await asyncio.gather(*films)
        lane = preparation._lanes["media"]
        monkeypatch.setattr(turns, "_MOST_KNOWN", 6)
        for number in range(20):
            await preparation.run("media", str(number), lambda: None)
        assert len(lane._held) <= 6 and {"a", "b"} <= set(lane._held)
        preparation.close()

    asyncio.run(ask())


def test_a_place_is_free_again_whoever_is_gone() -> None:
    holds = threading.Event()

    async def ask() -> None:
        preparation = Preparation()
        held = asyncio.create_task(preparation.run("adapters", "a", lambda: holds.wait(_HELD)))
        waits = [asyncio.create_task(preparation.run("adapters", name, lambda: None)) for name in "aab"]
        await asyncio.sleep(0.05)
        for task in (held, waits[0], waits[1]):
            task.cancel()
        await asyncio.sleep(0.05)
        assert not waits[2].done(), "the thread works on"
        holds.set()
        await asyncio.wait_for(waits[2], _HELD / 2)
        with pytest.raises(ZeroDivisionError):
            await preparation.run("adapters", "a", lambda: 1 // 0)
        await asyncio.wait_for(preparation.run("adapters", "a", lambda: None), _HELD / 2)
        lane = preparation._lanes["adapters"]
        await asyncio.sleep(0.05)
        assert lane._free == 1 and not lane._waiting and not lane._running
        preparation.close()

    asyncio.run(ask())


def test_a_turn_that_comes_as_its_client_goes_takes_no_place() -> None:
    """The lane broke: it gave a turn to who had been cancelled in the same moment."""

    async def ask() -> None:
        preparation, holds = Preparation(), threading.Event()
        lane = preparation._lanes["adapters"]
        held = asyncio.create_task(preparation.run("adapters", "a", lambda: holds.wait(_HELD)))
        waits = asyncio.create_task(preparation.run("adapters", "b", lambda: None))
        await asyncio.sleep(0.01)
        waits.cancel()
        lane._leave("a", time.monotonic())  # in the same moment
        await asyncio.sleep(0.01)
        assert lane._free == 1 and not lane._waiting and waits.cancelled()
        lane._free -= 1
        lane._running["a"] += 1
        holds.set()
        await held
        preparation.close()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("address", "forwarded", "client"),
    [
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "9.9.9.9", "10.0.0.1"),
        ("10.0.0.2", "1.2.3.4, 9.9.9.9", "9.9.9.9"),
        ("10.0.0.2", "", "10.0.0.2"),
        ("2001:db8:1:2:3::4", None, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", None, "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.2", "x" * 100, "x" * 64),
        ("::ffff:10.0.0.2", "9.9.9.9", "9.9.9.9"),
        ("10.0.0.2", ["1.2.3.4", "9.9.9.9"], "9.9.9.9"),
        ("10.0.0.2", "9.9.9.9:4711", "9.9.9.9"),
        ("10.0.0.2", '"[2001:db8:1:2:3::4]:4711"', "2001:db8:1:2::/64"),
        ("fe80::1%eth0", None, "fe80::/64"),
    ],
)
def test_a_client_is_its_address(address: str, forwarded: str | list[str] | None, client: str) -> None:
    """A second header, as some proxies add, a port and IPv4 written as IPv6 let a client choose whom it was."""
    values = [] if forwarded is None else [forwarded] if isinstance(forwarded, str) else forwarded
    headers = Headers(raw=[(b"x-forwarded-for", value.encode()) for value in values])
    request: Any = SimpleNamespace(client=SimpleNamespace(host=address), headers=headers)
    assert client_of(request, {"10.0.0.2"}) == client


class Sent:
    """What of a request is read: headers, and a body in parts."""

    def __init__(self, body: bytes, length: bool = True) -> None:
        self.headers = {"content-type": "application/json", **({"content-length": str(len(body))} if length else {})}
        self.body, self.reads = body, 0

    async def stream(self) -> Any:
        self.reads += 1
        yield self.body


def test_bodies_that_wait_are_counted_and_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were counted nowhere once they were read: 60 of 31 MiB were held at once."""

    async def ask() -> None:
        monkeypatch.setattr(reading, "SMALL", 0)
        bodies = BodyReader(most=100, together=250)
        first, second, third, chunked = Sent(b"x" * 100), Sent(b"x" * 100), Sent(b"x" * 60), Sent(b"x" * 60, False)
        begin = time.monotonic()
        async with bodies.kept(first, "a"), bodies.kept(second, "b"):  # type: ignore[arg-type]
            for other, reads in ((third, 0), (chunked, 1)):
                with pytest.raises(ApiError, match="too many large requests at once") as caught:
                    async with bodies.kept(other, "c"):  # type: ignore[arg-type]
                        pass
                assert caught.value.status == 429 and (caught.value.headers or {})["retry-after"] == "2"
                assert other.reads == reads
            async with bodies.kept(Sent(b"x" * 50), "c") as body:  # type: ignore[arg-type]
                assert len(body[0]) == 50
            monkeypatch.setattr(reading, "SMALL", 60)
            async with bodies.kept(third, "c") as body:  # type: ignore[arg-type]
                assert len(body[0]) == 60, "a little has everybody"
        async with bodies.kept(third, "c") as body:  # type: ignore[arg-type]
            assert len(body[0]) == 60
        assert time.monotonic() - begin < _HELD and not bodies._waiting

    asyncio.run(ask())


def test_bodies_of_one_client_leave_half_to_others() -> None:
    async def ask() -> None:
        bodies = BodyReader(most=100, together=250)
        async with bodies.kept(Sent(b"x" * 100), "a"):  # type: ignore[arg-type]
            with pytest.raises(ApiError, match="too many large requests at once"):
                async with bodies.kept(Sent(b"x" * 60), "a"):  # type: ignore[arg-type]
                    pass
            async with bodies.kept(Sent(b"x" * 100), "b"):  # type: ignore[arg-type]
                pass

    asyncio.run(ask())


def test_a_body_on_its_way_makes_room_for_those_of_clients_with_less() -> None:
    """Large bodies that were sent slowly had small ones of others refused for as long as they were young."""

    async def ask() -> None:
        bodies, goes_on = BodyReader(most=100, together=250), asyncio.Event()

        class Slow(Sent):
            async def stream(self) -> Any:
                yield self.body
                await goes_on.wait()

        slow = [asyncio.create_task(bodies.read(Slow(b"x" * 80), "a")) for _ in range(3)]  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert await bodies.read(Sent(b"x" * 60), "b") == b"x" * 60  # type: ignore[arg-type]
        goes_on.set()
        done = await asyncio.gather(*slow, return_exceptions=True)
        assert [type(one) for one in done] == [ApiError, bytes, bytes]

    asyncio.run(ask())


def test_a_client_beside_others_is_read_at_a_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty connections of one client had the event loop read for nobody else."""
    monkeypatch.setattr(reading, "PACE", 0.5)

    async def seconds(others: bool, client: str, bodies: int) -> float:
        reader = BodyReader(most=100, together=1000, beside_others=lambda client: others)
        begin = time.monotonic()
        for _ in range(bodies):
            assert await reader.read(Sent(b"x" * 100), client) == b"x" * 100  # type: ignore[arg-type]
        return time.monotonic() - begin

    paced = asyncio.run(seconds(True, "a", 3))
    assert 0.9 <= paced < _HELD, "each body after the first takes half a second"
    assert asyncio.run(seconds(True, "a", 1)) < 0.4 and asyncio.run(seconds(False, "a", 5)) < 0.4


def test_the_pace_of_a_client_that_was_alone_is_soon_good_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PACE", 0.2)
    monkeypatch.setattr(reading, "_MOST_PACED", 4)

    async def ask() -> None:
        others: set[str] = set()
        reader = BodyReader(most=100, together=1000, beside_others=lambda client: bool(others))
        for _ in range(50):
            await reader.read(Sent(b"x" * 100), "a")  # type: ignore[arg-type]
        others.add("b")
        begin = time.monotonic()
        await reader.read(Sent(b"x" * 100), "a")  # type: ignore[arg-type]
        assert time.monotonic() - begin < 5, "not for all fifty"
        for number in range(20):
            await reader.read(Sent(b"x"), str(number))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        await reader.read(Sent(b"x"), "last")  # type: ignore[arg-type]
        assert len(reader._sent) <= 5

    asyncio.run(ask())


def test_who_was_told_to_come_back_is_looked_at_when_it_may_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked again at once was refused again at once, which took as much computing as others' answers."""
    monkeypatch.setattr(turns, "_MOST_KNOWN", 3)

    async def ask() -> None:
        others = {"b"}
        back, order, begin = ComingBack(lambda client: bool(others)), list[float](), time.monotonic()

        async def come(client: str) -> None:
            await back.until_time(client)
            order.append(time.monotonic() - begin)

        back.told("a", {"retry-after": "0.3"})
        await asyncio.gather(*(come("a") for _ in range(3)))
        assert order[0] >= 0.3 and all(later - earlier > 0.05 for earlier, later in pairwise(order)), order
        order.clear()
        begin = time.monotonic()
        back.told("a", {"retry-after": "60"})
        await come("b")
        others.clear()
        await come("a")
        assert max(order) < 5, "others, and who is alone, do not wait"
        for number in range(9):
            back.told(str(number), {"retry-after": "0"})
        assert len(back._at) <= 3 and "a" in back._at

    asyncio.run(ask())


def test_memory_is_given_back_after_media_and_not_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of each thread were kept for it: 500 MiB after six animations."""
    monkeypatch.setattr(turns, "TRIM", 0.05)
    trimmed = list[str]()
    monkeypatch.setattr(turns.memory, "give_back", lambda: trimmed.append(threading.current_thread().name))

    async def ask() -> None:
        preparation = Preparation()
        for kind in ("text", "media", "media", "pictures"):
            await preparation.run(kind, "a", lambda: None)  # type: ignore[arg-type]
        await asyncio.sleep(0.3)
        for kind in ("text", "pictures"):
            await preparation.run(kind, "a", lambda: None)  # type: ignore[arg-type]
        await asyncio.sleep(0.3)
        preparation.close()

    asyncio.run(ask())
    assert trimmed == ["prepare-large_0"]
