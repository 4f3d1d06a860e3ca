"""Figures as JSON that people can read and git can keep: one record a line."""

from __future__ import annotations

import json
from typing import Any

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
