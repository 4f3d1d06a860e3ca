"""Connections: how long a request's head may take, and who makes room where there are too many.

uvicorn counts idle connections against its ``limit_concurrency`` and answers everybody 503 above it, and it waits for a
head without end: 256 clients that say nothing would take ``/health`` away for as long as they stay. Here those that
are not being answered make room for those that come. Requests that came whole are never given up for others; they are
as many as the queue and the rows hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

#: Connections that are kept beside those of requests that wait or are answered.
CONNECTIONS = 256
#: Seconds that a head may take, from the connection or from the first byte after an answer.
HEAD = 10.0
#: Seconds that a connection may be silent after an answer.
KEEP_ALIVE = 75

#: In the scope of a request that is not looked at yet, as its client came before it was told to.
WAITS = "luvc.waits"

_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(H11Protocol):
    """uvicorn's, which knows since when it waits for what.

    Args:
        config: uvicorn's.
        server_state: uvicorn's.
        app_state: uvicorn's.
        _loop: uvicorn's.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._since = self.loop.time()
        self._closing: float | None = None
        #: Whether a part of a request has come that is not being answered.
        self._begun = False

    def data_received(self, data: bytes) -> None:
        """Read on: a head begins, or ends."""
        before = self._answering, self._begun
        super().data_received(data)
        self._begun = not self._answering
        if (self._answering, self._begun) != before:
            self._since = self.loop.time()

    def on_response_complete(self) -> None:
        """Wait for the next request, of which a part may be there."""
        super().on_response_complete()
        rest = bool(self.conn.trailing_data[0]) or self.conn.their_state is h11.SEND_BODY
        self._begun, self._since = rest and not self._answering, self.loop.time()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def end_if_late(self) -> None:
        """End it where a head, the rest of a body that was answered, or its own end takes too long."""
        now = self.loop.time()
        if self.transport.is_closing():
            self._closing = self._closing or now
            if now - self._closing > HEAD:  # what was sent last is not read
                self.transport.abort()
        elif not self._answering and (self._begun or self.cycle is None) and now - self._since > HEAD:
            if self._begun and self.conn.our_state is h11.IDLE:
                self.transport.write(_LATE)
            self.transport.close()

    @property
    def rank(self) -> tuple[int, float] | None:
        """Who makes room first: the silent or early, half a head, half a body, unread answers; None is never asked."""
        if self.transport.is_closing() or (self._answering and self.flow.write_paused):
            return 3, self._since
        if not self._answering:
            return int(self._begun), self._since
        if WAITS in self.cycle.scope:
            return 0, self._since
        return (2, self._since) if self.cycle.more_body and not self.cycle.response_started else None

    def give_up(self) -> None:
        """End it at once."""
        self.transport.abort()


def keep_order(connections: Iterable[object], most: int) -> None:
    """End connections that are late, and as many as are too many, those first that have least to lose."""
    kept = [each for each in connections if isinstance(each, Connection)]
    for each in kept:
        each.end_if_late()
    ranked = [(rank, each) for each in kept if (rank := each.rank) is not None]
    ranked.sort(key=lambda pair: pair[0])
    for _, each in ranked[: max(0, len(kept) - most)]:
        each.give_up()
