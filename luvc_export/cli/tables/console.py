"""The console of every verb: what comes from a file is text, which steers no terminal and is no markup."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from luvc_export.errors import shown


def console(**settings: Any) -> Any:
    """A ``rich.console.Console`` that shows strings as they are, control characters as escapes.

    That holds for cells, titles and captions of tables too. Colour is given with ``styled``.
    """
    from rich.console import Console

    class Shown(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(shown(text), **{**options, "markup": False, "emoji": False})

    return Shown(**settings)


def table(rows: Iterable[Iterable[Any]], *head: str, left: int | None = None, **settings: Any) -> Any:
    """A ``rich.table.Table``; all columns but the first ``left`` are numbers, flush right; without a head, facts."""
    from rich.table import Table

    rich_table = Table(show_header=bool(head), **settings)
    for number, name in enumerate(head):
        rich_table.add_column(name, justify="left" if left is None or number < left else "right")
    for row in rows:
        rich_table.add_row(*row)
    return rich_table


def styled(*parts: str | tuple[str, str]) -> Any:
    """Text of parts, some in a style of rich's such as ``("missing", "red")``; control characters as escapes."""
    from rich.text import Text

    return Text.assemble(*(shown(part) if isinstance(part, str) else (shown(part[0]), part[1]) for part in parts))


def write(as_json: bool, data: Any, *parts: Any) -> None:
    """Print ``data`` as one line of JSON, or for people every part: texts as they are, tables as rich draws them.

    A function stands for what it returns, of parts for several; it is called where that is printed.
    """
    if as_json:
        print(json.dumps(data() if callable(data) else data))
        return
    for part in parts:
        for each in part() if callable(part) else (part,):
            if isinstance(each, str):
                print(each)
            else:
                console().print(each, soft_wrap=bool(getattr(each, "no_wrap", False)))


def unwrapped(*parts: str | tuple[str, str]) -> Any:
    """``styled`` text that stays one line, however narrow the terminal is: commands and folders to copy."""
    text = styled(*parts)
    text.no_wrap = True
    return text


def answer_text(text: str, stream: Any) -> str:
    """A model's words for ``stream``: escaped where it is a terminal, as they are in a file or a pipe."""
    return shown(text) if stream.isatty() else text
