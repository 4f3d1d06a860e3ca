"""Who may ask now: places in the queue, bodies that are read, and turns of what prepares them.

What preparing a chat takes is seen before anything of it is decoded: its kind of place (``preparation``).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from luvc_export.runtime.media.pictures import EXACT_PIXELS, pixels_to_decode
from luvc_export.serve.engine.loop import Engine
from luvc_export.serve.http.api_errors import ApiError
from luvc_export.serve.http.connections import WAITS
from luvc_export.serve.http.reading import BodyReader
from luvc_export.serve.http.sending import Answer, Form, Mailbox
from luvc_export.serve.interfaces.answering import Interface
from luvc_export.serve.interfaces.protocol import ChatRequest, ImagePart, RefusalPart, TextFormat, TextPart
from luvc_export.serve.options import ServeOptions
from luvc_export.serve.preparation import LARGE, ComingBack, Kind, Preparation, client_of
from luvc_export.serve.request_log import RequestRecord
from luvc_export.serve.tools.answer_plan import AnswerPlan

#: Letters of addresses, together, of pictures that are quickly decoded.
_MOST_LETTERS = 8 * 2**20
#: Pixels of a PNG that is decoded in the server (``runtime.media.decoding``).
_MOST_PIXELS = 2**22
#: Letters of base64 that hold a picture's kind and a PNG's size, and those that hold a photograph's size.
_HEAD, _JPEG_HEAD = 32, 2**19


def kind_of(chat: ChatRequest) -> Kind:
    """``text``, ``pictures`` that are decoded at once, or ``media``, for which a helper may take its seconds.

    Of one who says that a picture is another than it is, decoding says so at once.
    """
    contents = (message.content for message in chat.messages if not isinstance(message.content, str))
    shown = [part for content in contents for part in content or () if not isinstance(part, TextPart | RefusalPart)]
    if not shown:
        return "text"
    urls = [part.image_url for part in shown if isinstance(part, ImagePart)]
    addresses = [url if isinstance(url, str) else url.url for url in urls]
    quick = len(addresses) == len(shown) and sum(map(len, addresses)) <= _MOST_LETTERS
    return "pictures" if quick and all(map(_is_quick, addresses)) else "media"


def _is_quick(address: str) -> bool:
    """A JPEG as large as cameras make them, or a PNG of few pixels, by its first bytes."""
    head, _, data = address[: 200 + _HEAD].partition(",")
    if not head.lower().startswith("data:"):
        return False
    start = len(head) + 1
    try:
        first = base64.b64decode(data[:_HEAD])
        if first.startswith(b"\x89PNG\r\n\x1a\n") and len(first) == 24:
            width, height = int.from_bytes(first[16:20], "big"), int.from_bytes(first[20:24], "big")
            return width * height <= _MOST_PIXELS
        if not first.startswith(b"\xff\xd8"):
            return False
        return 0 < pixels_to_decode(base64.b64decode(address[start : start + _JPEG_HEAD]), None) <= EXACT_PIXELS
    except (binascii.Error, ValueError):
        return False


def is_guided(chat: ChatRequest) -> bool:
    """Whether a request may have a grammar, which is compiled."""
    if chat.tools and chat.tool_choice != "none":
        return True
    named = (chat.structured_outputs, chat.guided_json, chat.guided_regex, chat.guided_choice, chat.guided_grammar)
    shape = None if isinstance(chat.response_format, TextFormat) else chat.response_format
    return any(one is not None for one in (shape, *named))


A = TypeVar("A")
#: Times as many as the queue has places that may wait where each is its client's only request.
NEWCOMERS = 4
#: Seconds after which those who wait for the queue are looked at again.
_PAUSE = 0.02


class Admission:
    """Takes requests. Used in the event loop.

    Args:
        options: Limits.
        engine: Has the queue.
    """

    def __init__(self, options: ServeOptions, engine: Engine) -> None:
        self.options, self.engine = options, engine
        #: Requests of each client that have a place, until they are answered.
        self.asking = Counter[str]()
        most = options.max_body
        self._bodies = BodyReader(most, 4 * most, self._beside_others)
        self.patience, self._preparation = ComingBack(self._beside_others), Preparation()
        self._line = _Line(engine, self._more_places)

    def close(self) -> None:
        """Let the threads go."""
        self._preparation.close()

    def left(self, request: Request) -> None:
        """A request has ended: its place, if it had one, is another's."""
        if (client := getattr(request.state, "client", None)) is not None:
            self.asking[client] -= 1
            if not self.asking[client]:
                del self.asking[client]

    async def of_body(self, request: Request, work: Callable[[bytes], A], kind: Kind = "text") -> A:
        """What ``work`` gives for a body, in a place of that kind, or of large ones.

        Raises:
            ApiError: See ``BodyReader.kept``, and whatever ``work`` raises.
        """
        client = client_of(request, self.options.trusted_proxies)
        await self._in_time(request, client)
        async with self._bodies.kept(request, client) as kept:
            large: Kind = "large" if kind == "text" and len(kept[0]) > LARGE else kind
            return await self._preparation.run(large, client, lambda: work(kept.pop()))

    async def generate(self, request: Request, interface: Interface) -> Answer:
        """Take a request, prepare it and queue it.

        Raises:
            ApiError: Whatever is wrong with it; 429 where there is no place.
            ClientDisconnect: The client is gone.
        """
        plan_of, prepare = interface.plan_of, interface.prepare
        client = client_of(request, self.options.trusted_proxies)
        await self._in_time(request, client)
        if not self._may_wait(self._more_places(client)):
            raise self._queue_full({"connection": "close"})  # its body is not read
        async with self._bodies.kept(request, client) as kept:
            self.asking[client] += 1
            request.state.client = client
            if not await self._placed(request, client):
                raise self._queue_full()
            mailbox, reserved = Mailbox(), 1
            record: RequestRecord = request.state.record

            def read_text() -> tuple[Any, Kind, tuple[Form, bool] | None]:
                asked = interface.read(kept.pop())
                chat = interface.chat_of(asked)
                kind: Kind = "grammars" if is_guided(chat) else kind_of(chat)
                return asked, kind, prepare(asked, mailbox, plan_of(asked)) if kind == "text" else None

            async def in_turns(reading: Kind) -> tuple[Form, bool]:
                asked, kind, prepared = await self._preparation.run(reading, client, read_text)
                if prepared is not None:
                    return prepared
                if kind != "grammars":
                    return await self._preparation.run(kind, client, lambda: prepare(asked, mailbox, plan_of(asked)))

                def compiled() -> tuple[AnswerPlan, Kind]:
                    return plan_of(asked), kind_of(interface.chat_of(asked))

                plan, kind = await self._preparation.run(kind, client, compiled)
                return await self._preparation.run(kind, client, partial(prepare, asked, mailbox, plan))

            try:
                reading: Kind = "large" if len(kept[0]) > LARGE else "text"
                form, stream = await while_there(request, in_turns(reading))
                first = form.jobs[0]
                record.model, record.stream = first.model, stream
                record.videos = [taken.line() for taken in first.request.taken]
                while reserved < len(form.jobs):  # a newcomer's room is for one answer
                    if not self.engine.reserve(self._more_places(client)):
                        raise self._queue_full()
                    reserved += 1
                for job in form.jobs:
                    job.client = client
                    self.engine.submit(job)
                reserved = 0
            finally:
                for _ in range(reserved):
                    self.engine.release()
        return Answer(mailbox, form, stream, record)

    def _beside_others(self, client: str) -> bool:
        """Whether others are asking."""
        return len(self.asking) > (client in self.asking)

    async def _in_time(self, request: Request, client: str) -> None:
        """Wait until a client may come back that was told to; its connection makes room for others until then."""
        request.scope[WAITS] = True
        await self.patience.until_time(client)
        del request.scope[WAITS]

    async def _placed(self, request: Request, client: str) -> bool:
        """Take a place in the queue, after those in line; False where there is none."""
        if not len(self._line) and self.engine.reserve(self._more_places(client, 1)):
            return True
        if not self._may_wait(self._more_places(client, 1)):  # others came while its body was read
            return False
        with self._line.joined(client) as place:
            await while_there(request, asyncio.wait((place,), timeout=self.options.queue_wait))
        return place.done()

    def _may_wait(self, more: int) -> bool:
        """Whether there is a place, of ``more`` than the queue has, or one in line, which has as many as the queue."""
        in_line = self.options.queue * bool(self.options.queue_wait)
        return self.engine.has_room(more + in_line - len(self._line))

    def _more_places(self, client: str, own: int = 0) -> int:
        """Places that the queue has more, the fewer requests a client has: who fills it keeps nobody else out.

        ``own`` of its requests do not count: the one that asks, and those that stand in line behind it.
        """
        asking = self.asking[client] - own
        if not asking:
            return NEWCOMERS * self.options.queue
        return max(1, self.options.queue // (1 + asking)) if asking < max(1, self.options.queue // 4) else 0

    def _queue_full(self, headers: dict[str, str] | None = None) -> ApiError:
        message = f"{self.options.queue} requests wait already: try again (or --queue)"
        return ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": "1", **(headers or {})})


class _Line:
    """Requests that wait until the queue has a place, in order; one that finds none lets those behind it by.

    Args:
        engine: Has the queue.
        more: Places that the queue has more for a client, of whose requests so many do not count.
    """

    def __init__(self, engine: Engine, more: Callable[[str, int], int]) -> None:
        self._engine, self._more = engine, more
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[asyncio.Future[None], str] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def joined(self, client: str) -> Iterator[asyncio.Future[None]]:
        """Stand in line until a place in the queue is taken: what is given is done then."""
        place = asyncio.get_running_loop().create_future()
        self._waiting[place] = client
        if self._timer is None:
            self._give()
        try:
            yield place
        except BaseException:
            if place.done():
                self._engine.release()
            raise
        finally:
            del self._waiting[place]

    def _give(self) -> None:
        """Give places to those who wait, now and as long as some do."""
        behind = Counter(self._waiting.values())
        for place, client in self._waiting.items():
            if not place.done() and self._engine.reserve(self._more(client, behind[client])):
                place.set_result(None)
            behind[client] -= 1
        again = asyncio.get_running_loop().call_later
        self._timer = again(_PAUSE, self._give) if self._waiting else None


async def while_there(request: Request, work: Coroutine[Any, Any, A]) -> A:
    """What ``work`` gives, which is given up once the client is gone: its body has been read.

    Raises:
        ClientDisconnect: It is gone.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
