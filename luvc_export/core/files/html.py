"""One self-contained HTML page: no script, no outside file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0;font-size:14px}td,th{border:1px solid #ccc;padding:.2rem .6rem;"
    "text-align:left}.PASSED,.holds{color:#156d2c;font-weight:600}.FAILED,.fails{color:#b3151f;font-weight:600}"
    ".not{color:#666}img{max-width:100%}figure{margin:1.5rem 0}figcaption{color:#555}"
    "svg text{font:13px system-ui,sans-serif}"
)


def document(title: str, body: Iterable[str]) -> str:
    """A whole page around ``body``."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
    return head + "\n".join(body) + "</html>\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], raw: int = 0) -> str:
    """A table; the first ``raw`` cells of a row are HTML already."""
    lines = ["<table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{c if i < raw else escape(c)}</td>" for i, c in enumerate(row)) + "</tr>")
    return "".join([*lines, "</table>"])


def figure(png: bytes, caption: str) -> str:
    """An inline picture with its caption."""
    data = base64.b64encode(png).decode()
    alt = escape(caption)
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{alt}</figcaption></figure>'
