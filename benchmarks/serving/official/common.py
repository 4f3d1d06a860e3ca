"""What the scripts of clients in Python share: facts on standard input, no network but this machine."""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

_real = socket.getaddrinfo


def near(host: Any, *rest: Any, **more: Any) -> Any:
    """No name is looked up but this machine's: the checks run without a network, and fail where a client wants one."""
    name = host.decode() if isinstance(host, bytes) else host
    if name not in (None, "localhost", "127.0.0.1", "::1"):
        raise OSError(f"{name} was looked up")
    return _real(host, *rest, **more)


socket.getaddrinfo = near

Facts = dict[str, str]


def picture(facts: Facts, text: str | None = None) -> list[Any]:
    """One question about the picture."""
    content = [
        {"type": "image_url", "image_url": {"url": facts["picture"], "detail": "low"}},
        {"type": "text", "text": text or facts["question"]},
    ]
    return [{"role": "user", "content": content}]


def parts(facts: Facts) -> list[Any]:
    """The same as responses have it."""
    picture = {"type": "input_image", "image_url": facts["picture"], "detail": "low"}
    return [{"role": "user", "content": [picture, {"type": "input_text", "text": facts["question"]}]}]


#: A schema with one right kind of answer.
SHAPE: dict[str, Any] = {
    "title": "x",
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}


def facts() -> Facts:
    """Address, model, picture, question and right answer."""
    read: Facts = json.load(sys.stdin)
    return read


def report(client: str, outcome: str) -> None:
    """Say what a row of the table in docs/serving.md says (``clients.py``)."""
    print(f"row: {client} | {outcome}", flush=True)
