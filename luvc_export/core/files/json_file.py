"""JSON files of strangers: regular, of a size, UTF-8, not too deep, with numbers that fit where numbers go.

``dumps`` writes figures that people can read and git can keep: one record a line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luvc_export.core.files.text import decoded, read_bytes
from luvc_export.errors import LuvcError

#: No file of ours nests deeper than a dozen levels.
MAX_DEPTH = 64
#: Values a file may hold, by what separates and opens them: counted before it is parsed, as lists in lists take 30
#: times their bytes. Gemma 3's tokenizer has 2.4 million.
MAX_VALUES = 8_000_000
#: Largest whole number: sizes of files and time stamps in nanoseconds stay below.
MAX_INT = 2**62


def read_json(path: Path, most: int, error: type[LuvcError], what: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        most: Bytes it may have.
        error: What is raised; ``what`` is how it calls the file.
        what: Such as ``the manifest``.

    Raises:
        LuvcError: ``error``, if it is no regular file or missing, too large, or not such JSON.
    """
    return parse_json(read_bytes(path, error, what, most, "is too large to be one"), str(path), error, what)


def parse_json(data: bytes, where: str, error: type[LuvcError], what: str) -> Any:
    """``read_json`` of bytes."""
    if (count := sum(data.count(mark) for mark in (b",", b"[", b"{"))) > MAX_VALUES:
        raise error(
            f"{what} holds more values than any", where=where, got=f"{count:,} at most", expected=f"{MAX_VALUES:,}"
        )
    try:
        text = decoded(data)
        value = json.loads(text, parse_constant=_no_constant, parse_int=_whole, parse_float=_finite)
        _check_depth(value)
        if "\\ud" in text.lower():  # half a character, which no file can hold
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as reason:
        raise error(f"{what} is not JSON", where=where, got=str(reason)[:200]) from reason
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > MAX_INT:
        raise ValueError(f"the number {text[:24]} is too large")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:24]} is too large")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        if not level:
            return
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [each for item in inner for each in (item.values() if isinstance(item, dict) else item)]
    if level:
        raise ValueError(f"more than {MAX_DEPTH} levels deep")


#: Characters of an object or a list that stays on one line.
LINE = 1000


def dumps(data: Any, indent: str = "") -> str:
    """JSON of plain data, without a newline at its end.

    Args:
        data: Dicts with string keys, lists, tuples, strings, numbers, booleans, None.
        indent: Of the line it stands in.

    Raises:
        ValueError: A number that is not finite, which JSON has not.
    """
    line = json.dumps(data, allow_nan=False)
    if len(line) <= LINE or not isinstance(data, dict | list | tuple):
        return line
    deeper = f"{indent} "
    if isinstance(data, dict):
        items = [f"{json.dumps(str(key))}: {dumps(value, deeper)}" for key, value in data.items()]
    else:
        items = [dumps(value, deeper) for value in data]
    first, last = "{}" if isinstance(data, dict) else "[]"
    return "\n".join([first, ",\n".join(f"{deeper}{item}" for item in items), f"{indent}{last}"])
