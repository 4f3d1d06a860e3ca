"""Errors as OpenAI's clients expect them: status, body, headers."""

from __future__ import annotations

from typing import Any

from luvc_export.errors import CheckFailed, LuvcError, MachineError, UsageError

_TYPES = {401: "invalid_request_error", 403: "invalid_request_error", 429: "requests", 500: "server_error"}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        message: For people.
        param: The field of the request that is wrong.
        code: For programs.
        headers: More headers, such as ``retry-after``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The official form."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Status 400."""
    return ApiError(400, message, param, code)


def picture_too_large(most: int, param: str) -> ApiError:
    """Of a picture's bytes, wherever it comes from; pixels are for ``runtime.media.picture_limits`` to count."""
    message = f"the picture is too large; expected: at most {most:,} bytes (--max-body); fix: make it smaller first"
    return bad_request(message, param, "invalid_image_url")


def explained(error: Exception, param: str | None = "messages") -> ApiError:
    """Whatever went wrong as an answer: bad input is 400, what this machine lacks 503, all else 500.

    Clients try again what has status 429 or 5xx; what would fail again says that it would.

    Args:
        error: What was raised.
        param: What bad input is about, where nothing closer is known.
    """
    if isinstance(error, ApiError):
        return error
    never = {"x-should-retry": "false"}
    if isinstance(error, UsageError):
        code = "context_length_exceeded" if error.what.startswith("the prompt is longer than") else "invalid_value"
        where = {"json_schema": "response_format", "regex": "response_format"}.get(error.where or "", param)
        fix = f"; fix: {error.fix}" if error.fix else ""
        return ApiError(400, _said(error) + fix, where, code)
    if isinstance(error, MachineError):
        return ApiError(503, _said(error), None, "machine", never)
    if isinstance(error, CheckFailed):
        return ApiError(500, _said(error), None, "check_failed", never)
    return ApiError(500, f"internal error: {type(error).__name__}", None, "internal_error", never)


def _said(error: LuvcError) -> str:
    """An error's text without ``where``: it may name a folder of this machine."""
    parts = [error.what]
    parts += [f"{label}: {value}" for label, value in (("got", error.got), ("expected", error.expected)) if value]
    return "; ".join(parts)
