"""Tables of Markdown pages that commands and tools write, and the marks between which a page holds one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int | None = None) -> str:
    """A table; every line ends. Columns after the first ``left`` are aligned right, none where that is None."""
    rule = "".join("---|" if left is None or column < left else "---:|" for column in range(len(head)))
    return f"| {' | '.join(head)} |\n|{rule}\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def filled(template: Path, /, **values: object) -> str:
    """A page's template, whose places in braces have the names of ``values``."""
    return template.read_text(encoding="utf-8").format(**values)


def within(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between its marks ``<!-- name -->`` and ``<!-- end of name -->``."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content}{end}{rest.partition(end)[2]}"
