"""Who prepares a request when: places by kind, so that text never waits for media, and turns by client in each."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from starlette.requests import Request

Kind = Literal["text", "media", "adapters"]
T = TypeVar("T")
#: Threads of each kind, and how many of them one client has at a time: another client's request finds one.
PLACES: dict[Kind, tuple[int, int]] = {"text": (4, 3), "media": (3, 2), "adapters": (1, 1)}


class Preparation:
    """Runs what prepares requests in threads. Used in one event loop."""

    def __init__(self) -> None:
        self._lanes = {kind: _Lane(kind, *places) for kind, places in PLACES.items()}

    async def run(self, kind: Kind, client: str, work: Callable[[], T]) -> T:
        """``work``'s value, in a thread of that kind, when it is the client's turn; what it raises goes on."""
        return await self._lanes[kind].run(client, work)

    def close(self) -> None:
        """Let the threads go."""
        for lane in self._lanes.values():
            lane.pool.shutdown(wait=False, cancel_futures=True)


class _Lane:
    def __init__(self, name: str, places: int, each: int) -> None:
        self.pool = ThreadPoolExecutor(places, f"prepare-{name}")
        self._free, self._each = places, each
        self._running = Counter[str]()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

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
                self._leave(client)
            raise
        running = self.pool.submit(work)

        def ended(_: object) -> None:  # also where its client is gone: the thread works on until then
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._leave, client)

        running.add_done_callback(ended)
        return await asyncio.wrap_future(running)

    def _go_on(self) -> None:
        """Give free places to those who wait, a client after another."""
        while True:
            able = (one for one in self._waiting if self._free and self._running[one] < self._each)
            client = next(able, None)
            if client is None:
                return
            turns = self._waiting[client]
            self._free, self._running[client] = self._free - 1, self._running[client] + 1
            turns.popleft().set_result(None)
            self._waiting.move_to_end(client)
            if not turns:
                del self._waiting[client]

    def _leave(self, client: str) -> None:
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


def client_of(request: Request, trusted_proxies: Collection[str]) -> str:
    """Whose turn a request takes: its address, of IPv6 the first 64 bits, which are one household's.

    What a proxy says of an address counts where the proxy is a trusted one. The server has one key, which all clients
    share, so it tells none from another.
    """
    address = request.client.host if request.client else ""
    if address in trusted_proxies:
        address = request.headers.get("x-forwarded-for", "").rpartition(",")[2].strip() or address
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(known, ipaddress.IPv6Address) and known.ipv4_mapped is None:
        return str(ipaddress.ip_network((known, 64), strict=False))
    return str(getattr(known, "ipv4_mapped", None) or known)
