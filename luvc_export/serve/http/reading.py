"""A request's body, bounded in bytes and time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request

from luvc_export.serve.http.api_errors import ApiError

#: Seconds a body may take, and of them without a byte.
PATIENCE, SILENCE = 60.0, 10.0
#: Bytes that a client may have waiting whatever others have: as many as the queue has places are bounded by it.
SMALL = 2**22
#: Seconds for which a body is not given up for the room that others need.
GRACE = 2.0
#: Seconds over which a client that others wait beside sends as many bytes as one body may have: reading computes.
PACE = 2.0
#: Clients whose pace is known at once, and seconds that are too few to wait.
_MOST_PACED, _WORTH_WAITING = 1000, 0.02


class BodyReader:
    """Reads bodies; those being read at once are bounded too.

    Args:
        most: Bytes of a body.
        together: Bytes of all bodies that are being read; beyond, the client with the most makes room, of its bodies
            the one that has taken longest. Also of all that were read and wait. One client may
            have half, of both and by the lengths that it says.
        beside_others: Whether clients beside this one are asking: it is then read at ``PACE``, after a first body.
    """

    def __init__(self, most: int, together: int, beside_others: Callable[[str], bool] = lambda client: False) -> None:
        self._most, self._together, self._held = most, max(most, together), 0
        self._beside_others, self._sent = beside_others, dict[str, tuple[float, float]]()
        self._each = max(most, together // 2)
        self._reading: dict[_Limit, int] = {}
        self._waiting, self._promised = Counter[str](), Counter[str]()

    @asynccontextmanager
    async def kept(self, request: Request, client: str) -> AsyncIterator[list[bytes]]:
        """The whole body, counted while the block runs: those that were read whole and wait are bounded too.

        It is in a list, so that who has parsed it can let go of it.

        Raises:
            ApiError: See ``read``; 429 before a byte is read where others that wait leave no room for its length.
        """
        length = request.headers.get("content-length", "")
        expected = int(length) if length.isdigit() and int(length) <= self._most else 0
        if expected:
            self._check_room(expected, client)
        self._promised[client] += expected
        try:
            body = [await self.read(request, client)]
        finally:
            _take(self._promised, client, expected)
        size = len(body[0])
        self._check_room(size, client)
        self._waiting[client] += size
        try:
            yield body
        finally:
            _take(self._waiting, client, size)

    def _check_room(self, size: int, client: str) -> None:
        own = self._waiting[client] + self._promised[client] + size
        if self._waiting.total() + size > self._together and own > SMALL:
            raise _too_many()
        if own > self._each:
            oldest = next((one for one in self._reading if one.client == client and not one.ended), None)
            if oldest is None or oldest.age < GRACE:
                raise _too_many()
            oldest.end()

    async def read(self, request: Request, client: str = "") -> bytes:
        """The whole body.

        Raises:
            ApiError: 415 for another type than JSON, 413 if it is too large, 408 too slow, 429 where there are too
                many.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, "send application/json", code="unsupported_media_type")
        length = request.headers.get("content-length", "0")
        if not length.isdigit():
            raise ApiError(400, "content-length is no number", code="invalid_header")
        self._check(int(length))
        parts: list[bytes] = []
        limit, size = _Limit(PATIENCE, SILENCE, client), 0
        try:
            async with limit:
                self._reading[limit] = 0
                async for part in request.stream():
                    limit.heard()
                    size, self._held = size + len(part), self._held + len(part)
                    self._reading[limit] = size
                    self._check(size)
                    if self._held > self._together:
                        self._make_room(limit)
                    parts.append(part)
                    if (early := self._seconds_early(client, len(part))) > _WORTH_WAITING:
                        await asyncio.sleep(early)
                        limit.heard()
        except asyncio.TimeoutError as error:
            headers = {"connection": "close"}
            raise ApiError(408, "the body came too slowly: send it again", code="timeout", headers=headers) from error
        finally:
            self._reading.pop(limit, None)
            self._held -= size
        return b"".join(parts)

    def _seconds_early(self, client: str, size: int) -> float:
        """How much sooner than at ``PACE`` so many bytes more of a client came."""
        now, rate = asyncio.get_running_loop().time(), self._most / PACE
        sent, at = self._sent.get(client, (0.0, now))
        sent = min(max(0.0, sent - rate * (now - at)) + size, self._most + rate)
        self._sent[client] = sent, now
        if len(self._sent) > _MOST_PACED:
            self._sent = {one: (sent, at) for one, (sent, at) in self._sent.items() if sent > rate * (now - at)}
        return (sent - self._most) / rate if self._beside_others(client) else 0.0

    def _check(self, size: int) -> None:
        if size > self._most:
            message = f"the body has more than {self._most} bytes: send smaller pictures, or see --max-body"
            raise ApiError(413, message, code="body_too_large", headers={"connection": "close"})

    def _make_room(self, newest: _Limit) -> None:
        """Have a body end that had its time: the oldest one of the client that has the most bytes on the way."""
        reading = {limit: size for limit, size in self._reading.items() if not limit.ended}
        if sum(reading.values()) <= self._together:
            return
        held = Counter[str]()
        for limit, size in reading.items():
            held[limit.client] += size
        most = max(held.values())
        greediest = next(one for one in (newest.client, *held) if held[one] == most)
        oldest = next(limit for limit in reading if limit.client == greediest)
        if oldest is newest or (greediest == newest.client and oldest.age < GRACE):
            raise _too_many()
        oldest.end()


def _take(counts: Counter[str], client: str, size: int) -> None:
    counts[client] -= size
    if not counts[client]:
        del counts[client]


def _too_many() -> ApiError:
    headers = {"retry-after": "2", "connection": "close"}
    return ApiError(429, "too many large requests at once", code="rate_limit_exceeded", headers=headers)


class _Limit:
    """``asyncio.timeout`` of Python 3.11, for a whole and for the silence between its parts.

    Args:
        seconds: For all of it.
        silence: Between two calls of ``heard``.
        client: Whose it is.
    """

    def __init__(self, seconds: float, silence: float, client: str = "") -> None:
        self.client = client
        self._loop = asyncio.get_running_loop()
        self._begun, self._seconds, self._silence = self._loop.time(), seconds, silence
        #: Whether its time is over.
        self.ended = False

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return self._loop.time() - self._begun

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._arm()

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._handle.cancel()
        if self.ended and kind is asyncio.CancelledError:
            raise asyncio.TimeoutError

    def heard(self) -> None:
        """Something came."""
        self._handle.cancel()
        self._arm()

    def end(self) -> None:
        """End it now."""
        assert self._task is not None
        self.ended = True
        self._task.cancel()

    def _arm(self) -> None:
        self._handle = self._loop.call_later(min(self._seconds - self.age, self._silence), self.end)
