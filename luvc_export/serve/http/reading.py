"""A request's body, bounded in bytes and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from luvc_export.serve.http.api_errors import ApiError

#: Seconds a body may take, and of them without a byte.
PATIENCE, SILENCE = 60.0, 10.0
#: Seconds for which a body is not given up for the room that others need.
GRACE = 2.0


class BodyReader:
    """Reads bodies; those being read at once are bounded too.

    Args:
        most: Bytes of a body.
        together: Bytes of all bodies that are being read; beyond, the one that has taken longest makes room. Also of
            all that were read and wait.
    """

    def __init__(self, most: int, together: int) -> None:
        self._most, self._together, self._held, self._waiting = most, max(most, together), 0, 0
        self._reading: dict[_Limit, int] = {}

    @asynccontextmanager
    async def kept(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, counted while the block runs: those that were read whole and wait are bounded too.

        Raises:
            ApiError: See ``read``; 429 before a byte is read where others that wait leave no room for its length.
        """
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) <= self._most and self._waiting + int(length) > self._together:
            raise _too_many()
        body = await self.read(request)
        if self._waiting + len(body) > self._together:
            raise _too_many()
        self._waiting += len(body)
        try:
            yield body
        finally:
            self._waiting -= len(body)

    async def read(self, request: Request) -> bytes:
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
        limit, size = _Limit(PATIENCE, SILENCE), 0
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
        except asyncio.TimeoutError as error:
            headers = {"connection": "close"}
            raise ApiError(408, "the body came too slowly: send it again", code="timeout", headers=headers) from error
        finally:
            self._reading.pop(limit, None)
            self._held -= size
        return b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self._most:
            message = f"the body has more than {self._most} bytes: send smaller pictures, or see --max-body"
            raise ApiError(413, message, code="body_too_large", headers={"connection": "close"})

    def _make_room(self, newest: _Limit) -> None:
        """Have the body end that has taken longest, once it has had its time."""
        held = self._held - sum(size for limit, size in self._reading.items() if limit.ended)
        if held <= self._together:
            return
        oldest = next(limit for limit in self._reading if not limit.ended)
        if oldest is newest or oldest.age < GRACE:
            raise _too_many()
        oldest.end()


def _too_many() -> ApiError:
    headers = {"retry-after": "2", "connection": "close"}
    return ApiError(429, "too many large requests at once", code="rate_limit_exceeded", headers=headers)


class _Limit:
    """``asyncio.timeout`` of Python 3.11, for a whole and for the silence between its parts.

    Args:
        seconds: For all of it.
        silence: Between two calls of ``heard``.
    """

    def __init__(self, seconds: float, silence: float) -> None:
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
