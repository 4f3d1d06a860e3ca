"""Every field of a request, and what becomes of it: honoured, refused by name, or harmless. Served at ``/v1/fields``.

What is honoured is read from the records (``protocol``), what else is known, of OpenAI's and of other engines', from
the tables of all doors (``runtime.prompt.request_fields``). A field that would change the answer and cannot be honoured
is refused, one that is as good as a misspelt one too; what nobody has heard of passes, and is named in a header and in
the log.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, Literal

import msgspec

from luvc_export.runtime.prompt.request_fields import HARMLESS, REFUSED_INSIDE, Refusal, asks, meant
from luvc_export.serve.http.api_errors import ApiError, bad_request

#: Names that a header and a line of the log may hold, and letters of each.
_MOST_NAMES, _MOST_LETTERS = 20, 64


def rows(path: str, read: Collection[str], refused: Mapping[str, Refusal]) -> list[dict[str, Any]]:
    """The table of one path.

    Args:
        path: Of the path's requests.
        read: Names of what is honoured there.
        refused: What is refused there.
    """
    honoured = [_row(path, name, "honoured", "see docs/serving.md") for name in read]
    refusals = [
        {**_row(path, name, "refused", _fix(near)), "asks_for_nothing": list(nothing)}
        for name, (nothing, near) in refused.items()
    ]
    inside = [
        _row(path, f"{place}.{name}", "refused", _fix(near))
        for place in ("messages[]", "messages[].content[]")
        for name, (_, near) in REFUSED_INSIDE.items()
    ]
    harmless = [_row(path, name, "harmless", why) for name, why in HARMLESS.items() if name not in read]
    return honoured + refusals + (inside if "messages" in read else []) + harmless


def _row(path: str, name: str, becomes: Literal["honoured", "refused", "harmless"], why: str) -> dict[str, Any]:
    return {"path": path, "name": name, "is": becomes, "why": why}


@cache
def names_of(record: type) -> tuple[str, ...]:
    """Names that a struct is read by; finding them out takes as long as reading a request."""
    return tuple(field.encode_name for field in msgspec.structs.fields(record))


def refuse(data: Mapping[str, Any], refused: Mapping[str, Refusal], where: str = "") -> None:
    """Refuse options that would change the answer.

    Args:
        data: What holds them.
        refused: What is refused there.
        where: Its place, for errors.

    Raises:
        ApiError: It asks for one of them.
    """
    unused = [of for of, how in (("tools", "tool_choice"), ("functions", "function_call")) if data.get(how) == "none"]
    for name, sent in data.items():
        nothing, near = refused.get(name, ((), ""))
        if name in refused and name not in unused and asks(sent, nothing):
            raise unsupported(f"{where}{name}", near)


def unsupported(name: str, near: str = "") -> ApiError:
    """An option that would change the answer, and that nobody here can honour; ``near`` is the nearest of ours."""
    return bad_request(
        f"{name} is not supported by this server: {_fix(near)}", param=name, code="unsupported_parameter"
    )


def _fix(near: str) -> str:
    return f"leave it out, or see {near}" if near else "leave it out"


def unknown(data: Mapping[str, Any], known: Collection[str], strict: bool, where: str = "") -> list[str]:
    """Names of fields that nobody here has heard of; null is as good as absent.

    Args:
        data: What holds them.
        known: Names of fields that are read, refused or harmless there.
        strict: Refuse all of them.
        where: Its place, for errors.

    Raises:
        ApiError: One is close to a known name, or ``strict``.
    """
    names = [name for name, value in data.items() if value is not None and name not in known]
    for name in names:
        shown, close = printable(name), meant(name[:_MOST_LETTERS], known)
        if close or strict:
            hint = f"did you mean {close}?" if close else "this server is strict (--strict), see GET /v1/fields"
            raise bad_request(f"there is no field {shown}; {hint}", param=f"{where}{shown}", code="unknown_parameter")
    return [f"{where}{printable(name)}" for name in names[:_MOST_NAMES]]


def unknown_inside(messages: Any, known: Mapping[str | None, Collection[str]], strict: bool) -> list[str]:
    """The same of messages (``known[None]``) and of their parts by type, which are refused what they are refused.

    Raises what ``refuse`` and ``unknown`` raise.
    """
    names: dict[str, None] = {}
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        places = [(message, None, f"messages[{index}]."), *(
            (part, part.get("type"), f"messages[{index}].content[{number}].")
            for number, part in enumerate(parts)
            if isinstance(part, dict)
        )]  # fmt: skip
        for data, kind, where in places:
            if not isinstance(kind, str | None) or kind not in known:
                continue
            refuse(data, {name: how for name, how in REFUSED_INSIDE.items() if name not in known[kind]}, where)
            if len(names) < _MOST_NAMES:
                names |= dict.fromkeys(unknown(data, known[kind], strict, where))
    return list(names)


def printable(name: str) -> str:
    """A name as it can stand in a header, also one of no letters."""
    return re.sub(r"[^A-Za-z0-9_.\[\]-]", "?", name[:_MOST_LETTERS]) or "?"
