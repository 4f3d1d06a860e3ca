"""A plain HTTP client for chat completions: the standard library alone, so that nothing stands between."""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The first choice's text."""
        return str(self.json()["choices"][0]["message"]["content"])


@dataclass
class Client:
    """Calls one server; a connection for each call.

    Args:
        host: Address.
        port: Port.
        key: Sent as bearer.
        timeout: Seconds a call may be silent.
        source: Address of this machine that it calls from; None for any.
    """

    host: str
    port: int
    key: str | None = None
    timeout: float = 600.0
    more: dict[str, str] = field(default_factory=dict)
    source: str | None = None

    def open(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        """The connection and its answer, whose body has not been read."""
        source = (self.source, 0) if self.source else None
        connection = http.client.HTTPConnection(self.host, self.port, self.timeout, source)
        sent = {"content-type": "application/json", **self.more, **(headers or {})}
        if self.key:
            sent["authorization"] = f"Bearer {self.key}"
        connection.request(method, path, body, sent)
        return connection, connection.getresponse()

    def call(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        """The whole answer."""
        connection, answer = self.open(method, path, body, headers)
        try:
            lowered = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, lowered, answer.read())
        finally:
            connection.close()

    def chat(self, **request: Any) -> Reply:
        """``POST /v1/chat/completions``."""
        return self.call("POST", "/v1/chat/completions", json.dumps(request).encode())

    def events(self, **request: Any) -> Iterator[Any]:
        """The events of a streamed answer as they come, without the last, ``[DONE]``.

        Raises:
            RuntimeError: The server answered with an error, or stopped before ``[DONE]``.
        """
        sent = json.dumps({**request, "stream": True}).encode()
        connection, answer = self.open("POST", "/v1/chat/completions", sent)
        try:
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} {answer.read().decode()}")
            for line in answer:
                if line.startswith(b"data: [DONE]"):
                    return
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
            raise RuntimeError("the stream has no [DONE]")
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """A value of ``/metrics``, all labels together."""
        lines = self.call("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 3] as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def data_uri(picture: NDArray[np.uint8] | bytes) -> str:
    """Pixels, uint8 [H, W, 3], or a file of PNG, as a ``data:`` address."""
    file = picture if isinstance(picture, bytes) else png(picture)
    return "data:image/png;base64," + base64.b64encode(file).decode()


def picture_part(picture: NDArray[np.uint8] | bytes) -> dict[str, Any]:
    """A picture as a part of a message."""
    return {"type": "image_url", "image_url": {"url": data_uri(picture)}}


def user(text: str, *pictures: NDArray[np.uint8] | bytes) -> list[dict[str, Any]]:
    """Messages of one question, pictures first."""
    content = [*(picture_part(picture) for picture in pictures), {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]
