"""One line a request: who asked what, how it ended, what it cost, how long it took."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from time import perf_counter
from typing import Any, Literal, TextIO

from luvc_export.errors import shown
from luvc_export.serve.engine.jobs import Ended, Event, Finished

LOG = logging.getLogger("luvc_export.serve")
#: uvicorn's own, such as for what is no HTTP.
_UVICORN = logging.getLogger("uvicorn.error")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
#: Looked at every few seconds by whoever watches: lines only where something is wrong.
_WATCHED = frozenset(("/health", "/ready", "/metrics"))


@dataclass
class RequestRecord:
    """What is known of a request; it grows while it is answered.

    Args:
        id: Sent back as ``x-request-id``.
        method: Of HTTP.
        path: Of HTTP.
        client: Address of the client.
    """

    id: str
    method: str
    path: str
    client: str
    model: str | None = None
    stream: bool = False
    status: int = 0
    #: Code of the error it was answered with.
    error: str | None = None
    #: Nobody waited for the end of the answer.
    cancelled: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    #: How much of each video is looked at.
    videos: list[str] = field(default_factory=list)
    #: Fields of the request that nobody has heard of.
    ignored: list[str] = field(default_factory=list)
    #: Tools whose schemas no grammar holds.
    unheld: list[str] = field(default_factory=list)
    #: Milliseconds by name, see ``engine.jobs.Ended``.
    timings: Mapping[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=perf_counter)
    #: Seconds, once it has ended.
    seconds: float = 0.0

    def hear(self, event: Event) -> None:
        """Note what the engine tells."""
        if isinstance(event, Finished):
            self.finish_reasons.append(event.reason)
            self.completion_tokens += event.tokens
        elif isinstance(event, Ended):
            self.prompt_tokens, self.timings = event.text_tokens + event.visual_units, event.timings

    def fields(self) -> dict[str, Any]:
        """Plain data, without what there was nothing of."""
        times = {name: self.timings.get(name) for name in ("prepare_ms", "queue_ms", "ttft_ms", "decode_ms")}
        values = {
            "request_id": self.id,
            "client": self.client,
            "method": self.method,
            "path": self.path[:200],
            "status": self.status,
            "error": self.error,
            "model": self.model,
            "stream": self.stream if self.model else None,
            "video": "; ".join(self.videos) or None,
            "ignored": ", ".join(self.ignored) or None,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens if self.model else None,
            "finish_reason": ",".join(self.finish_reasons) or None,
            "cancelled": self.cancelled or None,
            **{name: value and round(value, 2) for name, value in times.items()},
            "cache": self.timings.get("cache"),
            "total_ms": round(1000 * self.seconds, 2),
        }
        return {name: value for name, value in values.items() if value is not None}

    def write(self) -> None:
        """Write the line."""
        if self.path not in _WATCHED or (self.status >= 400 and self.error != "not_ready"):
            LOG.info("request", extra={"fields": self.fields()})


def request_id(wanted: str | None) -> str:
    """The id a client gave its request, where that can stand in a header and a line; else one of ours."""
    return wanted if wanted is not None and _ID.fullmatch(wanted) else f"req_{secrets.token_hex(12)}"


def configure(form: Literal["text", "json"], quiet: bool, stream: TextIO | None = None) -> None:
    """Send what the server logs to ``stream``, by default standard error.

    Args:
        form: A line of words and ``name=value``, or one JSON object a line.
        quiet: Warnings and errors alone.
        stream: Where to.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    for logger in (LOG, _UVICORN):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING if quiet or logger is _UVICORN else logging.INFO)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values = {"time": _time(record), "level": record.levelname.lower(), "message": record.getMessage()}
        values |= getattr(record, "fields", {})
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record), record.levelname.lower(), record.getMessage()]
        words += [f"{name}={_word(value)}" for name, value in getattr(record, "fields", {}).items()]
        line = shown(" ".join(words))
        return line + "\n" + self.formatException(record.exc_info) if record.exc_info else line


def _word(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(letter.isspace() or letter in '"=' for letter in text) else text
