"""Who prepares a request when: places by kind, so that text never waits for media, and turns by client in each."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from time import monotonic
from typing import Literal, TypeVar

from starlette.requests import Request

from luvc_export.runtime import memory

Kind = Literal["text", "large", "pictures", "media", "grammars", "adapters"]
T = TypeVar("T")
#: Threads of each kind, and how many of them one client has at a time: another client's request finds one.
PLACES: dict[Kind, tuple[int, int]] = {
    "text": (4, 3),
    "large": (2, 1),
    "pictures": (3, 2),
    "media": (3, 2),
    "grammars": (2, 1),
    "adapters": (1, 1),
}
#: Bytes of a body that is ``large``: reading it as JSON takes many times as many, and holds others' threads.
LARGE = 2**20
#: Seconds that a client may have held places of a kind lately; those that held more come later, and leave one place
#: to others however many they are. Lately: what was held counts half after so many seconds.
MOST_SECONDS, HALVED = 5.0, 10.0
#: Kinds that leave much memory behind, and seconds after one of them until it is given back: steps would have to take
#: theirs anew after each small picture.
_FREES_MUCH = ("large", "media")
TRIM = 1.0
#: Seconds between requests of a client that was told to come back later, and of which one waits for that at most.
_BETWEEN, _LONGEST = 0.1, 10.0
#: Clients whose seconds are known at once.
_MOST_KNOWN = 1000


class Preparation:
    """Runs what prepares requests in threads. Used in one event loop."""

    def __init__(self) -> None:
        self._lanes = {kind: _Lane(kind, *places) for kind, places in PLACES.items()}
        self._will_trim = False

    async def run(self, kind: Kind, client: str, work: Callable[[], T]) -> T:
        """``work``'s value, in a thread of that kind, when it is the client's turn; what it raises goes on."""
        try:
            return await self._lanes[kind].run(client, work)
        finally:
            if kind in _FREES_MUCH and not self._will_trim:
                self._will_trim = True
                asyncio.get_running_loop().call_later(TRIM, self._trim)

    def _trim(self) -> None:
        """Give back what was freed by now: each thread's blocks would be kept for it, hundreds of MiB of pictures."""
        self._will_trim = False
        with contextlib.suppress(RuntimeError):  # it was closed
            self._lanes["large"].pool.submit(memory.give_back)

    def close(self) -> None:
        """Let the threads go."""
        for lane in self._lanes.values():
            lane.pool.shutdown(wait=False, cancel_futures=True)


class _Lane:
    def __init__(self, name: str, places: int, each: int) -> None:
        self.pool = ThreadPoolExecutor(places, f"prepare-{name}")
        self._free, self._each, self._kept = places, each, int(places > 1)
        self._running = Counter[str]()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._held: dict[str, tuple[float, float]] = {}

    async def run(self, client: str, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        self._go_on()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(client, turn)
            else:  # its turn came, and nobody is there
                self._leave(client, monotonic())
            raise
        begun = monotonic()
        running = self.pool.submit(work)

        def ended(_: object) -> None:  # also where its client is gone: the thread works on until then
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._leave, client, begun)

        running.add_done_callback(ended)
        return await asyncio.wrap_future(running)

    def _go_on(self) -> None:
        """Give free places to those who wait, a client after another, those who held little lately first."""
        while self._free:
            able = [one for one in self._waiting if self._running[one] < self._each]
            most = max(
                MOST_SECONDS, max(map(self._seconds, self._held), default=0.0) / 4
            )  # where all are slow, none is
            client = next((one for one in able if self._seconds(one) <= most), None)
            if client is None and self._free > self._kept:
                client = next(iter(able), None)
            if client is None:
                return
            turns = self._waiting[client]
            turn = turns.popleft()
            self._waiting.move_to_end(client)
            if not turns:
                del self._waiting[client]
            if not turn.cancelled():  # it will be told that it was
                self._free, self._running[client] = self._free - 1, self._running[client] + 1
                turn.set_result(None)

    def _seconds(self, client: str) -> float:
        """What a client held lately."""
        seconds, at = self._held.get(client, (0.0, 0.0))
        return float(seconds * 0.5 ** ((monotonic() - at) / HALVED))

    def _leave(self, client: str, begun: float) -> None:
        now = monotonic()
        self._held[client] = self._seconds(client) + now - begun, now
        if len(self._held) > _MOST_KNOWN:
            least = sorted(self._held, key=self._seconds)[: _MOST_KNOWN // 2]
            self._held = {one: held for one, held in self._held.items() if one not in set(least)}
        self._free, self._running[client] = self._free + 1, self._running[client] - 1
        if not self._running[client]:
            del self._running[client]
        self._go_on()

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(client)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[client]


class ComingBack:
    """When clients may come back that were told to (429): who comes before is not looked at until then, one by one.

    Refusing takes as much computing as an answer's token, and some who are refused ask again at once.

    Args:
        beside_others: Whether clients beside this one are asking; a client alone is in nobody's way.
    """

    def __init__(self, beside_others: Callable[[str], bool]) -> None:
        self._at, self._beside_others = dict[str, float](), beside_others

    def told(self, client: str, headers: Mapping[str, str]) -> None:
        """A client was told to come back after ``retry-after`` seconds."""
        now = monotonic()
        if len(self._at) >= _MOST_KNOWN:
            self._at = {one: at for one, at in self._at.items() if at > now}
        at = max(self._at.get(client, now), now + float(headers.get("retry-after", 1)))
        self._at[client] = min(at, now + _LONGEST)

    async def until_time(self, client: str) -> None:
        """Wait until a client may come back."""
        now = monotonic()
        at = self._at.get(client, now)
        if at > now and self._beside_others(client):
            self._at[client] = min(at + _BETWEEN, now + _LONGEST)
            await asyncio.sleep(at - now)


def client_of(request: Request, trusted_proxies: Collection[str]) -> str:
    """Whose turn a request takes: its address, of IPv6 the first 64 bits, which are one household's.

    What a proxy says of an address counts where the proxy is a trusted one: the last address of the last
    ``X-Forwarded-For``, which is the proxy's own. The server has one key, which all clients share, so it tells none
    from another.
    """
    address = _plain(request.client.host if request.client else "")
    if address in {_plain(proxy) for proxy in trusted_proxies}:
        last_header = (request.headers.getlist("x-forwarded-for") or [""])[-1]
        address = _plain(last_header.rpartition(",")[2]) or address
    return _household(address)


@lru_cache(_MOST_KNOWN)
def _household(address: str) -> str:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((known, 64), strict=False)) if known.version == 6 else str(known)


@lru_cache(_MOST_KNOWN)
def _plain(address: str) -> str:
    """An address without its port, brackets and zone; of IPv4 written as IPv6 the IPv4."""
    address = address.strip().strip('"')
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(getattr(known, "ipv4_mapped", None) or known)
