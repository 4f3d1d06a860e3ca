"""Texts that steer terminals, put into every field of what is read; and whether what is shown is harmless."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from luvc_export.cli.tables import console as consoles
from luvc_export.errors import LuvcError

HOSTILE = "\x1b[2J[/x][red]\u202e:smile:\x07"


def changed(data: Any) -> Iterator[Any]:
    """``data`` with each text in it made hostile in turn, and each name of a field that is not one of ours."""
    places: list[tuple[Any, ...]] = []
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), data)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [((*path, key), item) for key, item in inner]
        elif isinstance(value, str):
            places.append(path)
    for path in places:
        copied = copy.deepcopy(data)
        holder = copied
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = HOSTILE
        yield copied


def printed(*things: Any) -> str:
    out = io.StringIO()
    console = consoles.console(file=out, force_terminal=True, width=400, color_system="truecolor")
    for thing in things:
        console.print(thing)
    return out.getvalue()


def harmless(text: str) -> bool:
    """Nothing but line ends and rich's own colours."""
    plain = re.sub("\x1b\\[[0-9;]*m", "", text)
    return not any(letter in plain for letter in "\x1b\x07\u202e")


def error_of(error: LuvcError) -> str:
    return f"{error}{json.dumps(error.to_json())}"
