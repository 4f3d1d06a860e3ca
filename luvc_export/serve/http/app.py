"""The routes."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from luvc_export.serve.asking import Asker
from luvc_export.serve.engine.jobs import Job
from luvc_export.serve.engine.loop import Engine
from luvc_export.serve.http import page
from luvc_export.serve.http.api_errors import ApiError, explained
from luvc_export.serve.http.bodies import Completion
from luvc_export.serve.http.protocol import ChatRequest, parse
from luvc_export.serve.http.reading import BodyReader
from luvc_export.serve.http.security import check_caller
from luvc_export.serve.http.sending import Answer, Mailbox, Receive, Send
from luvc_export.serve.metrics import Metrics
from luvc_export.serve.models import Models
from luvc_export.serve.options import ServeOptions

Scope = MutableMapping[str, Any]

_PATHS = {
    "/": ("GET", "HEAD"),
    "/health": ("GET", "HEAD"),
    "/ready": ("GET", "HEAD"),
    "/metrics": ("GET",),
    "/v1/models": ("GET",),
    "/v1/chat/completions": ("POST",),
}
_MODEL = "/v1/models/"
_LOG = logging.getLogger("luvc_export.serve")


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
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "prepare"))

    def __post_init__(self) -> None:
        self._bodies = BodyReader(self.options.max_body, 8 * self.options.max_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever goes wrong before the answer began is an error body."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("this server speaks HTTP alone")
        request = Request(scope, receive)
        named = f"req_{secrets.token_hex(12)}"
        begun = False
        status = 0

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal begun, status
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
            await send(message)

        path = scope["path"]
        known = path if path in _PATHS else _MODEL if path.startswith(_MODEL) else "other"
        try:
            try:
                check_caller(path, request.headers, self.options)
                answer = await self._routed(request, path)
                if isinstance(answer, Answer):
                    answer.headers = self._common(request, named)
                    await answer(receive, noted)
                else:
                    await _with(answer, self._common(request, named))(scope, receive, noted)
            except ClientDisconnect:
                return
            except Exception as error:
                if begun:
                    raise
                if not isinstance(error, ApiError) and explained(error).status == 500:
                    _LOG.exception("request %s", named)
                told = explained(error)
                response = _json(told.body(), told.status, told.headers)
                await _with(response, self._common(request, named))(scope, receive, noted)
        finally:
            self.metrics.requests.labels(known, str(status or 499)).inc()

    def close(self) -> None:
        """Let the pool go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _routed(self, request: Request, path: str) -> Response | Answer:
        methods = _PATHS.get(path, ("GET",) if path.startswith(_MODEL) else ())
        if not methods:
            raise ApiError(404, f"there is no {request.method} {path[:200]}", code="unknown_url")
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
            "/v1/chat/completions": self._chat,
        }
        return await routes.get(path, self._one)(request)

    async def _chat(self, request: Request) -> Answer:
        arrived = perf_counter()
        self._check_ready()
        body = await self._bodies.read(request)
        if not self.engine.reserve():
            said = f"{self.options.queue} requests wait already"
            raise ApiError(429, said, code="rate_limit_exceeded", headers={"retry-after": "1"})
        mailbox, submitted = Mailbox(), False
        try:
            loop = asyncio.get_running_loop()
            chat, job = await loop.run_in_executor(self._pool, self._prepared, body, mailbox, arrived)
            self.engine.submit(job)
            submitted = True
        finally:
            if not submitted:
                self.engine.release()
        usage = chat.stream_options is not None and chat.stream_options.include_usage
        return Answer(mailbox, Completion(chat.model, job, usage, chat.luvc.survivors), bool(chat.stream))

    def _prepared(self, body: bytes, mailbox: Mailbox, arrived: float) -> tuple[ChatRequest, Job]:
        chat = parse(body)
        return chat, self.asker.job(chat, mailbox.tell, arrived)[1]

    def _check_ready(self) -> None:
        if self.draining or not self.engine.alive or not self.engine.ready.is_set():
            said = "the server is ending" if self.draining else "the model is not ready"
            raise ApiError(503, said, code="not_ready", headers={"retry-after": "2"})

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
        return _json({"object": "list", "data": [model.to_json() for model in self.models.by_name.values()]})

    async def _one(self, request: Request) -> Response:
        return _json(self.models.find(request.scope["path"].removeprefix(_MODEL)).to_json())

    def _common(self, request: Request, named: str) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", named.encode()), (b"x-content-type-options", b"nosniff")]
        origin = request.headers.get("origin")
        if origin is not None and origin in self.options.allow_origins:
            headers += [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin")]
        return headers


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
