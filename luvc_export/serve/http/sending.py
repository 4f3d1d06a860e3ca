"""An answer on its way to a client: one JSON object, or server-sent events while it grows."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

import msgspec

from luvc_export.serve.engine.jobs import Ended, Event, Failed, Finished, Job, Piece
from luvc_export.serve.http.api_errors import ApiError, explained
from luvc_export.serve.request_log import RequestRecord

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

#: Events that wait for a client; beyond, it does not read, and its answer ends.
MOST_EVENTS = 1024
#: A comment is sent where nothing else was for so long, so that what is between keeps the connection.
QUIET = 15.0


def _nothing() -> None:
    pass


class Mailbox:
    """Events of one job, from the engine's thread to the event loop: at most ``MOST_EVENTS`` that nobody takes.

    ``overrun`` is called in the event loop when there would be more, and whoever takes the others gets no further one.
    """

    def __init__(self) -> None:
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[Event | None]()
        self._full, self.overrun = False, _nothing
        self._told, self._waking = deque[Event](), False

    def tell(self, event: Event) -> None:
        """Called in the engine's thread. The loop is woken for the first event that it has not taken yet."""
        self._told.append(event)
        if not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._waking = False
        while self._told:
            self._put(self._told.popleft())

    def _put(self, event: Event) -> None:
        if self._full:
            return
        self._full = self._queue.qsize() >= MOST_EVENTS
        self._queue.put_nowait(None if self._full else event)
        if self._full:
            self.overrun()

    def hang_up(self) -> None:
        """Nobody waits any more; called in the event loop."""
        self._queue.put_nowait(None)

    async def next(self, seconds: float | None = None) -> Event | None:
        """The next event, None after ``hang_up``.

        Raises:
            TimeoutError: There was none for so long.
        """
        return await asyncio.wait_for(self._queue.get(), seconds)


class Form(Protocol):
    """The objects one of the interfaces answers with, whole or as events of a stream."""

    @property
    def jobs(self) -> Sequence[Job]:
        """What is answered."""

    def begin(self) -> bytes:
        """Events before all others."""

    def event(self, event: Piece | Finished) -> bytes:
        """Events of an answer that grew or has ended; none where there is nothing to tell."""

    def end(self, event: Ended) -> bytes:
        """The last events."""

    def failed(self, error: ApiError) -> bytes:
        """The last events of a stream that cannot go on."""

    def whole(self, pieces: Sequence[Piece], finished: Sequence[Finished], ended: Ended) -> dict[str, Any]:
        """All of it in one object."""


class Answer:
    """An ASGI response. Its first event decides the status, so that bad luck in the prefill is an error with a code.

    Args:
        mailbox: Where events come.
        form: Makes objects of them.
        stream: Send them as they come.
        record: Told what came.
    """

    def __init__(self, mailbox: Mailbox, form: Form, stream: bool, record: RequestRecord) -> None:
        self._mailbox, self._form, self._stream, self._record = mailbox, form, stream, record
        mailbox.overrun = self._cancel
        #: To send with it.
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Send everything, or give the job up when the client goes away.

        Raises:
            ApiError: The job failed before anything was sent.
        """
        watch = asyncio.create_task(self._watch(receive))
        try:
            await (self._events(send) if self._stream else self._whole(send))
        except (ConnectionError, TimeoutError, asyncio.TimeoutError):
            self._record.cancelled = True  # the client is gone, or stopped reading
        finally:
            self._cancel()  # does nothing to what has ended
            watch.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._cancel()
        self._mailbox.hang_up()

    def _cancel(self) -> None:
        for job in self._form.jobs:
            job.cancel()

    async def _arriving(self, seconds: float | None = None) -> AsyncIterator[Piece | Finished | Ended | Failed | bytes]:
        """Events until the last one; nothing more once the client is gone, a comment where none comes for long."""
        while True:
            try:
                event = await self._mailbox.next(seconds)
            except asyncio.TimeoutError:
                yield b": working\n\n"
                continue
            if event is None:
                self._record.cancelled = True
                return
            self._record.hear(event)
            yield event
            if isinstance(event, Ended | Failed):
                return

    async def _whole(self, send: Send) -> None:
        pieces: list[Piece] = []
        finished: list[Finished] = []
        async for event in self._arriving():
            if isinstance(event, Failed):
                raise explained(event.error)
            if isinstance(event, Piece):
                pieces.append(event)
            elif isinstance(event, Finished):
                finished.append(event)
            elif isinstance(event, Ended):
                body = msgspec.json.encode(self._form.whole(pieces, finished, event))
                await self._start(send, 200, b"application/json", [(b"content-length", str(len(body)).encode())])
                await self._put(send, body, more=False)

    async def _events(self, send: Send) -> None:
        begun = False
        async for event in self._arriving(QUIET):
            if isinstance(event, Failed) and not begun:
                raise explained(event.error)
            if not begun:
                await self._start(send, 200, b"text/event-stream; charset=utf-8", [(b"cache-control", b"no-cache")])
                if opening := self._form.begin():
                    await self._put(send, opening)
                begun = True
            if isinstance(event, bytes):
                await self._put(send, event)
            elif isinstance(event, Failed):
                error = explained(event.error)
                self._record.error = error.code
                await self._put(send, self._form.failed(error), more=False)
            elif isinstance(event, Ended):
                await self._put(send, self._form.end(event), more=False)
            elif data := self._form.event(event):
                await self._put(send, data)

    async def _start(self, send: Send, status: int, kind: bytes, more: list[tuple[bytes, bytes]]) -> None:
        headers = [(b"content-type", kind), *self.headers, *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def _put(self, send: Send, body: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})


def sse(data: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"
