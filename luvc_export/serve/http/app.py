"""The routes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from luvc_export.runtime.prompt.request_fields import CHAT_REFUSED, COMPLETIONS_REFUSED, RESPONSES_REFUSED
from luvc_export.serve.asking import Asker
from luvc_export.serve.engine.loop import Engine
from luvc_export.serve.http.admission import Admission
from luvc_export.serve.http.api_errors import ApiError, bad_request, explained
from luvc_export.serve.http.security import check_caller, key_of, page
from luvc_export.serve.http.sending import Answer, Receive, Send
from luvc_export.serve.interfaces.adapters import AdapterChange, load_adapter, unload_adapter
from luvc_export.serve.interfaces.answering import (
    Interface,
    chat_completions,
    completions,
    responses,
)
from luvc_export.serve.interfaces.completions import COMPLETIONS_READ
from luvc_export.serve.interfaces.fields import names_of, rows
from luvc_export.serve.interfaces.protocol import ChatRequest
from luvc_export.serve.interfaces.response_store import ResponseStore, Shelf
from luvc_export.serve.interfaces.responses import RESPONSES_READ
from luvc_export.serve.interfaces.tokens import detokenize, tokenize
from luvc_export.serve.metrics import Metrics
from luvc_export.serve.models import Models
from luvc_export.serve.options import ServeOptions
from luvc_export.serve.preparation import client_of
from luvc_export.serve.request_log import LOG, RequestRecord, request_id
from luvc_export.serve.vectors.doors import ALIASES, DOORS
from luvc_export.serve.vectors.doors import interface as vectors
from luvc_export.version import VERSION

Scope = MutableMapping[str, Any]

_PATHS = {
    "/": ("GET", "HEAD"),
    "/health": ("GET", "HEAD"),
    "/ready": ("GET", "HEAD"),
    "/metrics": ("GET",),
    "/v1/models": ("GET",),
    "/v1/fields": ("GET",),
    "/v1/chat/completions": ("POST",),
    "/v1/completions": ("POST",),
    "/v1/responses": ("POST",),
    **dict.fromkeys((*DOORS, *ALIASES), ("POST",)),
    "/tokenize": ("POST",),
    "/detokenize": ("POST",),
    "/version": ("GET",),
    "/ping": ("GET", "HEAD", "POST"),
    "/load": ("GET",),
    "/v1/load_lora_adapter": ("POST",),
    "/v1/unload_lora_adapter": ("POST",),
}
_MODEL, _RESPONSE = "/v1/models/", "/v1/responses/"
#: Of paths that end in a name.
_BELOW = {_MODEL: ("GET",), _RESPONSE: ("GET", "DELETE")}
#: What clients ask for that is not here, and what to do.
_ELSEWHERE = {
    _RESPONSE: "a response that was stored is at GET and DELETE /v1/responses/{id}",
}


#: What becomes of every field that is known, for clients to read.
TABLE = [
    *rows("/v1/chat/completions", names_of(ChatRequest), CHAT_REFUSED),
    *rows("/v1/completions", COMPLETIONS_READ, COMPLETIONS_REFUSED),
    *rows("/v1/responses", RESPONSES_READ, RESPONSES_REFUSED),
    *(row for path, door in DOORS.items() for row in rows(path, door.read, door.refused)),
]

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

    def __post_init__(self) -> None:
        self.admission = Admission(self.options, self.engine)
        self.store = ResponseStore(0 if self.options.no_store else self.options.stored_responses)

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
            self.admission.left(request)
            record.status = record.status or CLOSED
            record.cancelled = record.cancelled or record.status == CLOSED
            record.seconds = perf_counter() - record.begun
            self.metrics.answered(record, path if path in _PATHS else _below(path) or "other")
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
                client = client_of(request, self.options.trusted_proxies)
                self.admission.patience.told(client, api_error.headers)
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
        self.admission.close()

    async def _routed(self, request: Request, path: str) -> Response | Answer:
        methods = _PATHS.get(path) or _BELOW.get(_below(path), ())
        if not methods:
            fix = next(
                (hint for begin, hint in _ELSEWHERE.items() if path.startswith(begin)), "see GET / and /v1/models"
            )
            raise ApiError(404, f"there is no {request.method} {path[:200]}; {fix}", code="unknown_url")
        origin = request.headers.get("origin")
        if request.method == "OPTIONS" and origin in self.options.allow_origins:
            allowed = {"access-control-allow-methods": "GET, POST, DELETE", "access-control-max-age": "600"}
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
            "/v1/chat/completions": partial(self._generate, chat_completions),
            "/v1/completions": partial(self._generate, completions),
            "/v1/responses": self._respond,
            "/tokenize": partial(self._of_tokens, tokenize),
            "/detokenize": partial(self._of_tokens, detokenize),
            "/version": self._version,
            "/ping": self._health,
            "/load": self._load,
            "/v1/load_lora_adapter": partial(self._change_adapters, load_adapter),
            "/v1/unload_lora_adapter": partial(self._change_adapters, unload_adapter),
        }
        if (door := DOORS.get(ALIASES.get(path, path))) is not None:
            return await self._generate(partial(vectors, door, self.engine.follow), request)
        below = {_MODEL: self._one, _RESPONSE: self._stored}
        return await (routes.get(path) or below[_below(path)])(request)

    async def _generate(self, interface: Callable[[Asker, bool, RequestRecord], Interface], request: Request) -> Answer:
        self._check_ready()
        how = interface(self.asker, self.options.strict, request.state.record)
        return await self.admission.generate(request, how)

    async def _respond(self, request: Request) -> Answer:
        return await self._generate(partial(responses, self._shelf(request)), request)

    async def _stored(self, request: Request) -> Response:
        name, shelf = request.scope["path"].removeprefix(_RESPONSE), self._shelf(request)
        if request.method == "DELETE":
            shelf.delete(name)
            return _json({"id": name, "object": "response", "deleted": True})
        if request.query_params.get("stream", "false") != "false":
            raise bad_request("a stored response is not streamed: leave stream out", "stream", "unsupported_parameter")
        return _json(shelf.response(name))

    def _shelf(self, request: Request) -> Shelf:
        owner = hashlib.sha256(key_of(request.headers).encode("utf-8", "replace")).digest()
        return Shelf(self.store, owner, client_of(request, self.options.trusted_proxies))

    async def _change_adapters(self, change: AdapterChange, request: Request) -> Response:
        def work(body: bytes) -> str:
            return change(body, self.models, self.options)

        return Response(await self.admission.of_body(request, work, "adapters"))

    async def _of_tokens(self, work: Callable[[bytes, Asker], bytes], request: Request) -> Response:
        self._check_ready()
        body = await self.admission.of_body(request, lambda body: work(body, self.asker))
        return Response(body, media_type="application/json")

    async def _version(self, request: Request) -> Response:
        return _json({"version": VERSION})

    async def _load(self, request: Request) -> Response:
        return _json({"server_load": self.engine.waiting + self.engine.running})

    def _check_ready(self) -> None:
        if self.draining or not self.engine.alive or not self.engine.ready.is_set():
            reason = "the server is ending" if self.draining else "the model is not ready"
            raise ApiError(503, reason, code="not_ready", headers={"retry-after": "2"})

    async def _page(self, request: Request) -> Response:
        body, policy = page()
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
        if unheld := request.state.record.unheld:
            headers.append((b"x-luvc-unheld-tools", ", ".join(unheld).encode()))
        origin = request.headers.get("origin")
        if origin is not None and origin in self.options.allow_origins:
            headers += [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin")]
        return headers


def _below(path: str) -> str:
    """What a path is below of that ends in a name; "" where it is none."""
    return next((begin for begin in _BELOW if path.startswith(begin) and "/" not in path.removeprefix(begin)), "")


def _let_go_of_frames(error: BaseException | None) -> None:
    """Forget where an error came from: frames it passed hold pictures, and it, until garbage is collected."""
    while error is not None:
        error.__traceback__, error = None, error.__cause__ or error.__context__


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
