"""A request's body, bounded in bytes and time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from luvc_export.serve.http.api_errors import ApiError

#: Seconds a body may take.
PATIENCE = 60.0


class BodyReader:
    """Reads bodies; those being read at once are bounded too.

    Args:
        most: Bytes of a body.
        together: Bytes of all bodies that are being read.
    """

    def __init__(self, most: int, together: int) -> None:
        self._most, self._together, self._held = most, max(most, together), 0

    async def read(self, request: Request) -> bytes:
        """The whole body.

        Raises:
            ApiError: 415 for another type than JSON, 413 if it is too large, 408 too slow, 429 where there are too
                many.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, "send application/json", code="unsupported_media_type")
        said = request.headers.get("content-length", "0")
        if not said.isdigit():
            raise ApiError(400, "content-length is no number", code="invalid_header")
        self._check(int(said))
        parts: list[bytes] = []
        size = 0
        try:
            async with _limit(PATIENCE):
                async for part in request.stream():
                    size, self._held = size + len(part), self._held + len(part)
                    self._check(size)
                    if self._held > self._together:
                        said = "too many large requests at once"
                        raise ApiError(429, said, code="rate_limit_exceeded", headers={"retry-after": "2"})
                    parts.append(part)
        except asyncio.TimeoutError as error:
            raise ApiError(408, "the request came too slowly", code="timeout") from error
        finally:
            self._held -= size
        return b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self._most:
            said = f"the body has more than {self._most} bytes"
            raise ApiError(413, said, code="body_too_large", headers={"connection": "close"})


class _limit:  # noqa: N801
    """``asyncio.timeout`` of Python 3.11."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._late = seconds, False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def late() -> None:
            self._late = True
            task.cancel()

        self._handle = asyncio.get_running_loop().call_later(self._seconds, late)

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._handle.cancel()
        if self._late and kind is asyncio.CancelledError:
            raise asyncio.TimeoutError
