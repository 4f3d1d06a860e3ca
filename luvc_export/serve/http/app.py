"""The routes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from luvc_export.runtime.generation.sampling import Sampling
from luvc_export.runtime.prompt.request_fields import REFUSED, RESPONSES_REFUSED
from luvc_export.serve.asking import Asker
from luvc_export.serve.chat_kinds import is_guided, kind_of
from luvc_export.serve.engine.loop import Engine
from luvc_export.serve.http import page
from luvc_export.serve.http.adapters import AdapterChange, load_adapter, unload_adapter
from luvc_export.serve.http.api_errors import ApiError, explained
from luvc_export.serve.http.bodies import Completion
from luvc_export.serve.http.connections import WAITS
from luvc_export.serve.http.fields import names_of, rows
from luvc_export.serve.http.protocol import ChatRequest, last_answer, parse
from luvc_export.serve.http.reading import BodyReader
from luvc_export.serve.http.response_objects import ResponseObjects
from luvc_export.serve.http.responses import RESPONSES_READ, ResponseRequest, parse_response, renamed
from luvc_export.serve.http.security import check_caller
from luvc_export.serve.http.sending import Answer, Form, Mailbox, Receive, Send
from luvc_export.serve.metrics import Metrics
from luvc_export.serve.models import Models
from luvc_export.serve.options import ServeOptions
from luvc_export.serve.preparation import LARGE, ComingBack, Kind, Preparation, client_of
from luvc_export.serve.request_log import LOG, RequestRecord, request_id

Scope = MutableMapping[str, Any]
A = TypeVar("A")

_PATHS = {
    "/": ("GET", "HEAD"),
    "/health": ("GET", "HEAD"),
    "/ready": ("GET", "HEAD"),
    "/metrics": ("GET",),
    "/v1/models": ("GET",),
    "/v1/fields": ("GET",),
    "/v1/chat/completions": ("POST",),
    "/v1/responses": ("POST",),
    "/v1/load_lora_adapter": ("POST",),
    "/v1/unload_lora_adapter": ("POST",),
}
_MODEL = "/v1/models/"
#: What clients ask for that is not here, and what to do.
_ELSEWHERE = {
    "/v1/completions": "ask POST /v1/chat/completions with messages: models here answer chats",
    "/v1/responses/": "answers are not stored: send the whole conversation to POST /v1/responses",
    "/v1/embeddings": "models here answer in text",
}


#: What becomes of every field that is known, for clients to read.
TABLE = [
    *rows("/v1/chat/completions", names_of(ChatRequest), REFUSED),
    *rows("/v1/responses", RESPONSES_READ, RESPONSES_REFUSED),
]

#: Times as many as the queue has places that may wait where each is its client's only request.
NEWCOMERS = 4
#: What a request counts as whose client was gone before an answer, as nginx has it.
CLOSED = 499


@dataclass(eq=False)
class App:
    """An ASGI application.

    Args:
        options: Limits and permissions.
        models: What can be asked.
        engine: Answers.
        asker: Makes jobs of requests.
        metrics: Counts.
    """

    options: ServeOptions
    models: Models
    engine: Engine
    asker: Asker
    metrics: Metrics
    #: Nothing new is taken: the server ends when what runs is done.
    draining: bool = False
    _preparation: Preparation = field(default_factory=Preparation)

    def __post_init__(self) -> None:
        self._asking = Counter[str]()  # requests of each client that have a place, until they are answered
        most = self.options.max_body
        self._bodies = BodyReader(most, 4 * most, self._beside_others)
        self._patience = ComingBack(self._beside_others)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong before the answer began is an error body."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("this server speaks HTTP alone")
        request, path = Request(scope, receive), scope["path"]
        client = scope.get("client") or ("", 0)
        record = RequestRecord(request_id(request.headers.get("x-request-id")), request.method, path, client[0])
        request.state.record = record

        async def noted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await asyncio.wait_for(send(message), self.options.stream_timeout)

        try:
            await self._answered(request, record, receive, noted)
        finally:
            if (asking := getattr(request.state, "client", None)) is not None:
                self._asking[asking] -= 1
                if not self._asking[asking]:
                    del self._asking[asking]
            record.status = record.status or CLOSED
            record.cancelled = record.cancelled or record.status == CLOSED
            record.seconds = perf_counter() - record.begun
            self.metrics.answered(record, path if path in _PATHS else _MODEL if path.startswith(_MODEL) else "other")
            record.write()

    async def _answered(self, request: Request, record: RequestRecord, receive: Receive, send: Send) -> None:
        try:
            check_caller(record.path, request.headers, self.options)
            answer = await self._routed(request, record.path)
            if isinstance(answer, Answer):
                answer.headers = self._common(request, record.id)
                await answer(receive, send)
            else:
                await _with(answer, self._common(request, record.id))(request.scope, receive, send)
        except (ClientDisconnect, TimeoutError, asyncio.TimeoutError):
            record.cancelled = True  # nobody is there, or reads
        except Exception as error:
            api_error = explained(error)
            if api_error.status == 429:
                self._patience.told(client_of(request, self.options.trusted_proxies), api_error.headers)
            if not isinstance(error, ApiError) and api_error.status == 500:
                LOG.exception("request %s", record.id)
            record.error = api_error.code
            if record.status:
                raise
            _let_go_of_frames(error)
            response = _json(api_error.body(), api_error.status, api_error.headers)
            await _with(response, self._common(request, record.id))(request.scope, receive, send)

    def close(self) -> None:
        """Let the threads go."""
        self._preparation.close()

    async def _routed(self, request: Request, path: str) -> Response | Answer:
        methods = _PATHS.get(path, ("GET",) if path.startswith(_MODEL) else ())
        if not methods:
            fix = next(
                (hint for begin, hint in _ELSEWHERE.items() if path.startswith(begin)), "see GET / and /v1/models"
            )
            raise ApiError(404, f"there is no {request.method} {path[:200]}; {fix}", code="unknown_url")
        origin = request.headers.get("origin")
        if request.method == "OPTIONS" and origin in self.options.allow_origins:
            allowed = {"access-control-allow-methods": "GET, POST", "access-control-max-age": "600"}
            allowed["access-control-allow-headers"] = "authorization, content-type"
            return Response(status_code=204, headers=allowed)
        if request.method not in methods:
            headers = {"allow": ", ".join(methods)}
            raise ApiError(405, f"{request.method} does nothing here", code="method_not_supported", headers=headers)
        routes: dict[str, Callable[[Request], Awaitable[Response | Answer]]] = {
            "/": self._page,
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics,
            "/v1/models": self._list,
            "/v1/fields": self._fields,
            "/v1/chat/completions": self._chat,
            "/v1/responses": self._respond,
            "/v1/load_lora_adapter": partial(self._change_adapters, load_adapter),
            "/v1/unload_lora_adapter": partial(self._change_adapters, unload_adapter),
        }
        return await routes.get(path, self._one)(request)

    async def _chat(self, request: Request) -> Answer:
        record: RequestRecord = request.state.record

        def read(body: bytes) -> ChatRequest:
            chat, record.ignored = parse(body, self.options.strict)
            return chat

        def prepare(chat: ChatRequest, mailbox: Mailbox, options: Sampling) -> tuple[Form, bool]:
            model, job = self.asker.job(chat, mailbox.tell, record.begun, options)
            usage = chat.stream_options is not None and chat.stream_options.include_usage
            how = (usage, chat.luvc.survivors, last_answer(chat) if chat.echo else "")
            return Completion(chat.model or model.name, job, *how), bool(chat.stream)

        return await self._generate(request, read, lambda chat: chat, self.asker.options, prepare)

    async def _respond(self, request: Request) -> Answer:
        record: RequestRecord = request.state.record

        def read(body: bytes) -> ResponseRequest:
            asked = parse_response(body, self.options.strict)
            record.ignored = asked.ignored
            return asked

        def options(asked: ResponseRequest) -> Sampling:
            with renamed(asked.before):
                return self.asker.options(asked.chat)

        def prepare(asked: ResponseRequest, mailbox: Mailbox, options: Sampling) -> tuple[Form, bool]:
            chat = asked.chat
            with renamed(asked.before):
                model, job = self.asker.job(chat, mailbox.tell, record.begun, options)
            return ResponseObjects(chat.model or model.name, job, asked.echoed, chat.luvc.survivors), bool(chat.stream)

        return await self._generate(request, read, lambda asked: asked.chat, options, prepare)

    async def _generate(
        self,
        request: Request,
        read: Callable[[bytes], A],
        chat_of: Callable[[A], ChatRequest],
        options_of: Callable[[A], Sampling],
        prepare: Callable[[A, Mailbox, Sampling], tuple[Form, bool]],
    ) -> Answer:
        self._check_ready()
        client = client_of(request, self.options.trusted_proxies)
        await self._in_time(request, client)
        more = self._more_places(client)
        if not self.engine.has_room(more):
            raise self._queue_full({"connection": "close"})  # its body is not read
        async with self._bodies.kept(request, client) as kept:
            if not self.engine.reserve(more):
                raise self._queue_full()
            self._asking[client] += 1
            request.state.client = client
            mailbox, submitted = Mailbox(), False
            record: RequestRecord = request.state.record

            def read_text() -> tuple[A, Kind, tuple[Form, bool] | None]:
                asked = read(kept.pop())
                chat = chat_of(asked)
                kind: Kind = "grammars" if is_guided(chat) else kind_of(chat)
                return asked, kind, prepare(asked, mailbox, options_of(asked)) if kind == "text" else None

            async def in_turns(reading: Kind) -> tuple[Form, bool]:
                asked, kind, prepared = await self._preparation.run(reading, client, read_text)
                if prepared is not None:
                    return prepared
                if kind != "grammars":
                    return await self._preparation.run(kind, client, lambda: prepare(asked, mailbox, options_of(asked)))

                def compiled() -> tuple[Sampling, Kind]:
                    return options_of(asked), kind_of(chat_of(asked))

                options, kind = await self._preparation.run(kind, client, compiled)
                return await self._preparation.run(kind, client, partial(prepare, asked, mailbox, options))

            try:
                reading: Kind = "large" if len(kept[0]) > LARGE else "text"
                form, stream = await while_there(request, in_turns(reading))
                record.model, record.stream = form.job.model, stream
                record.videos = [taken.line() for taken in form.job.request.taken]
                form.job.client = client
                self.engine.submit(form.job)
                submitted = True
            finally:
                if not submitted:
                    self.engine.release()
        return Answer(mailbox, form, stream, record)

    def _beside_others(self, client: str) -> bool:
        """Whether others are asking."""
        return len(self._asking) > (client in self._asking)

    async def _in_time(self, request: Request, client: str) -> None:
        """Wait until a client may come back that was told to; its connection makes room for others until then."""
        request.scope[WAITS] = True
        await self._patience.until_time(client)
        del request.scope[WAITS]

    def _more_places(self, client: str) -> int:
        """Places that the queue has more, the fewer requests a client has: who fills it keeps nobody else out."""
        asking = self._asking[client]
        if not asking:
            return NEWCOMERS * self.options.queue
        return max(1, self.options.queue // (1 + asking)) if asking < max(1, self.options.queue // 4) else 0

    def _queue_full(self, headers: dict[str, str] | None = None) -> ApiError:
        message = f"{self.options.queue} requests wait already: try again (or --queue)"
        return ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": "1", **(headers or {})})

    async def _change_adapters(self, change: AdapterChange, request: Request) -> Response:
        client = client_of(request, self.options.trusted_proxies)
        await self._in_time(request, client)
        async with self._bodies.kept(request, client) as kept:
            work = partial(change, kept.pop(), self.models, self.options)
            return Response(await self._preparation.run("adapters", client, work))

    def _check_ready(self) -> None:
        if self.draining or not self.engine.alive or not self.engine.ready.is_set():
            reason = "the server is ending" if self.draining else "the model is not ready"
            raise ApiError(503, reason, code="not_ready", headers={"retry-after": "2"})

    async def _page(self, request: Request) -> Response:
        body, policy = page.page()
        headers = {"content-security-policy": policy, "referrer-policy": "no-referrer", "x-frame-options": "DENY"}
        return Response(body, media_type="text/html; charset=utf-8", headers=headers)

    async def _health(self, request: Request) -> Response:
        alive = self.engine.alive
        return _json({"status": "ok" if alive else "broken"}, 200 if alive else 503)

    async def _ready(self, request: Request) -> Response:
        self._check_ready()
        return _json({"status": "ready"})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _list(self, request: Request) -> Response:
        limits = self.options.limits()
        return _json({"object": "list", "data": [model.to_json(limits) for model in self.models.by_name.values()]})

    async def _fields(self, request: Request) -> Response:
        return _json({"object": "list", "data": TABLE})

    async def _one(self, request: Request) -> Response:
        return _json(self.models.find(request.scope["path"].removeprefix(_MODEL)).to_json(self.options.limits()))

    def _common(self, request: Request, named: str) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", named.encode()), (b"x-content-type-options", b"nosniff")]
        if ignored := request.state.record.ignored:
            headers.append((b"x-luvc-ignored", ", ".join(ignored).encode()))
        origin = request.headers.get("origin")
        if origin is not None and origin in self.options.allow_origins:
            headers += [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin")]
        return headers


def _let_go_of_frames(error: BaseException | None) -> None:
    """Forget where an error came from: frames it passed hold pictures, and it, until garbage is collected."""
    while error is not None:
        error.__traceback__, error = None, error.__cause__ or error.__context__


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


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _json(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(data), status, headers, "application/json")


def _with(response: Response, headers: list[tuple[bytes, bytes]]) -> Response:
    response.raw_headers += headers
    return response
