"""Responses that clients go on with, look at or delete: in memory, bounded in bytes and time, each its key's alone."""

from __future__ import annotations

import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from luvc_export.serve.http.api_errors import ApiError, bad_request

#: Seconds for which a response is kept after it was last asked for or gone on with.
KEPT = 3600.0
_NOT_THERE = (
    "it was not stored, was deleted, is older than an hour, or made room for others (--stored-responses): send the "
    "whole conversation as input"
)


@dataclass(eq=False)
class _Stored:
    owner: bytes
    client: str
    previous: str | None
    items: list[Any]
    size: int
    used: float
    #: None while it is being answered.
    body: dict[str, Any] | None = None


class ResponseStore:
    """Keeps responses. Used in any thread.

    A response holds its own input and output, and the id of the one before it. Where there is no room, the client that
    has most loses what it has not asked for for longest: nobody's are pushed out by others that store more.

    Args:
        most: Bytes of all; 0 keeps none.
        seconds: How long one is kept.
        now: A clock.
    """

    def __init__(self, most: int, seconds: float = KEPT, now: Callable[[], float] = monotonic) -> None:
        self.most, self._seconds, self._now = most, seconds, now
        self._held, self._lock = Counter[str](), threading.Lock()
        #: What was asked for last is last; of a conversation its newest response goes first.
        self._by_id: OrderedDict[str, _Stored] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """What they take."""
        return self._held.total()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_id)

    def expire(self) -> None:
        """Forget what is too old."""
        with self._lock:
            while self._by_id and next(iter(self._by_id.values())).used < self._now() - self._seconds:
                self._forget(next(iter(self._by_id)))

    def _touch(self, name: str | None) -> list[_Stored] | None:
        """A response and those it goes on with, newest first, which were asked for now; None where one is gone."""
        conversation: list[_Stored] = []
        while name is not None:
            if name not in self._by_id:
                return None
            self._by_id.move_to_end(name)
            conversation.append(self._by_id[name])
            conversation[-1].used, name = self._now(), conversation[-1].previous
        return conversation

    def _forget(self, name: str) -> None:
        entry = self._by_id.pop(name)
        self._held[entry.client] -= entry.size
        if not self._held[entry.client]:
            del self._held[entry.client]

    def _grow(self, name: str, size: int) -> None:
        entry = self._by_id[name]
        entry.size += size
        self._held[entry.client] += size
        while self._held.total() > self.most:
            greediest = max(self._held, key=lambda client: self._held[client])
            self._forget(next(one for one, entry in self._by_id.items() if entry.client == greediest))


@dataclass(frozen=True)
class Shelf:
    """What of a store one client may see.

    Args:
        store: Of all.
        owner: Of its responses, those of one key.
        client: Whose room they take.
    """

    store: ResponseStore
    owner: bytes = b""
    client: str = ""

    def conversation(self, name: str) -> list[Any]:
        """Items of a response and of those before it, oldest first; without instructions, as OpenAI has it.

        Raises:
            ApiError: 400, it is not there.
        """
        param = "previous_response_id"
        if not self.store.most:
            message = "this server stores no answers (--no-store): send the whole conversation as input"
            raise bad_request(message, param, "unsupported_parameter")
        with self.store._lock:
            stored = self.store._touch(name) if self._has(name) else None
        if stored is None:
            message = f"there is no response {name[:100]!r} of yours, or none before it any more; {_NOT_THERE}"
            raise bad_request(message, param, "previous_response_not_found")
        return [item for one in reversed(stored) for item in (*one.items, *(one.body or {}).get("output", ()))]

    def begin(self, name: str, previous: str | None, items: list[Any]) -> bool:
        """Keep what is asked while it is answered; whether there is room for it."""
        store, size = self.store, _size(items) + _size(name)
        if size > store.most:
            return False
        with store._lock:
            store._by_id[name] = _Stored(self.owner, self.client, previous, items, 0, store._now())
            store._touch(name)
            store._grow(name, size)
            return name in store._by_id

    def end(self, name: str, body: dict[str, Any]) -> None:
        """Keep the answer, where its question is there still."""
        with self.store._lock:
            if name in self.store._by_id:
                self.store._by_id[name].body = body
                self.store._grow(name, _size(body))

    def response(self, name: str) -> dict[str, Any]:
        """A response as it was answered.

        Raises:
            ApiError: 404, it is not there.
        """
        with self.store._lock:
            if self._has(name) and (body := self.store._by_id[name].body) is not None:
                self.store._touch(name)
                return body
        raise self._gone(name)

    def delete(self, name: str) -> None:
        """Forget a response; what went on with it cannot be gone on with any more.

        Raises:
            ApiError: 404, it is not there.
        """
        with self.store._lock:
            if not self._has(name):
                raise self._gone(name)
            self.store._forget(name)

    def _has(self, name: str) -> bool:
        entry = self.store._by_id.get(name)
        return entry is not None and entry.owner == self.owner and entry.body is not None

    def _gone(self, name: str) -> ApiError:
        why = _NOT_THERE if self.store.most else "this server stores no answers (--no-store)"
        return ApiError(404, f"there is no response {name[:100]!r} of yours; {why}", code="response_not_found")


def _size(value: Any) -> int:
    """Bytes of plain data; what is there twice counts twice."""
    waiting, size = [value], 0
    while waiting:
        one = waiting.pop()
        size += sys.getsizeof(one)
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
    return size
