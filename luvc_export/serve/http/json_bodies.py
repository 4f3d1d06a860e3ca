"""A request's body as JSON: bounded, text that tokenizers take, and nulls that are as good as absent."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from luvc_export.serve.http.api_errors import bad_request

#: Values a body may hold: what separates and opens them is counted before it is parsed. 31 MB of lists took 2.5 GB, and
#: a million objects 1.5 s in which no other thread computed.
MOST_VALUES = 100_000
#: Bytes that are counted at a time: other threads go on in between.
_COUNTED = 2**18
#: One half of an escaped pair without the other.
_HALF = re.compile(
    rb"(?<!\\)(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def decoded(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        ApiError: It is none.
    """
    count = 0
    for first in range(0, len(body), _COUNTED):
        part = body[first : first + _COUNTED]
        count += part.count(b",") + part.count(b"[") + part.count(b"{")
        if count > MOST_VALUES:
            message = f"the body may hold {count:,} values or more; expected: at most {MOST_VALUES:,}"
            raise bad_request(message, code="body_too_complex")
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        half = _HALF.search(body)
        why = f"a text holds half a character ({half[0].decode()}); send Unicode" if half else str(error)
        raise bad_request(f"the body is not JSON: {why}", code="invalid_json") from error
    if not isinstance(data, dict):
        raise bad_request("the body is not a JSON object", code="invalid_json")
    return data


def require(data: dict[str, Any], *names: str) -> None:
    """Check that fields are there.

    Raises:
        ApiError: One is not.
    """
    for name in names:
        if data.get(name) is None:
            raise bad_request(f"you must provide {name}", param=name, code="missing_required_parameter")


#: Whose fields may be null, which is as good as absent; a schema's nulls are values.
_HOLDERS = (
    *("messages", "content", "image_url", "video_url", "stream_options", "response_format", "json_schema", "luvc"),
    *("structured_outputs", "mm_processor_kwargs", "tools", "function", "tool_calls", "tool_choice", "allowed_tools"),
)


def without_nulls(data: Any, depth: int = 8) -> Any:
    """``data`` without fields that are null, in whatever of a request holds fields that are read."""
    if isinstance(data, list) and depth:
        return [without_nulls(item, depth - 1) for item in data]
    if not isinstance(data, dict) or not depth:
        return data
    return {
        name: without_nulls(value, depth - 1) if name in _HOLDERS else value
        for name, value in data.items()
        if value is not None
    }


def check_text(data: Any) -> None:
    """Refuse strings that are no text: halves of surrogate pairs, which no tokenizer takes.

    Places are written out for the one string that is refused, not for each that is not: a name of 1 MB over 2,500
    numbers took 2.6 GB.
    """
    waiting: list[tuple[Any, _Place]] = [(data, None)]
    while waiting:
        value, place = waiting.pop()
        if isinstance(value, dict):
            for name, inside in value.items():
                _check_string(name, place)
                if isinstance(inside, str):
                    _check_string(inside, (place, name))
                elif isinstance(inside, dict | list):
                    waiting.append((inside, (place, name)))
        elif isinstance(value, list):
            for index, inside in enumerate(value):
                if isinstance(inside, str):
                    _check_string(inside, (place, index))
                elif isinstance(inside, dict | list):
                    waiting.append((inside, (place, index)))


#: Where a value stands: the place of what holds it, and its name or index there.
_Place = tuple[Any, "str | int"] | None


def _check_string(text: str, place: _Place) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise bad_request("this text is not Unicode", param=_written(place), code="invalid_value") from error


def _written(place: _Place) -> str | None:
    """``messages[0].content``, cut at 200 letters."""
    parts: list[str] = []
    while place is not None:
        place, name = place
        parts.append(f"[{name}]" if isinstance(name, int) else f".{name[:200]}")
    text = "".join(reversed(parts)).lstrip(".")[:200]
    return text.encode("utf-8", "backslashreplace").decode() or None
