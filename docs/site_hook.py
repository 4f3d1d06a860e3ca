"""Hook of mkdocs: links of a page that leave ``docs/`` become the repository's.

``LUVC_REPOSITORY`` says where that is, such as ``https://example.org/owner/name``; without it such a link is its text
alone, so that a site nobody has hosted points nowhere wrong.
"""

from __future__ import annotations

import os
import posixpath
import re
from typing import Any

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def outside(text: str, page: str, repository: str) -> str:
    """``text`` of the page ``page`` (relative to docs/) with its links to files that are not of docs/ changed."""

    def changed(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        if picture or "://" in target or target.startswith(("#", "mailto:")):
            return link[0]
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target.partition("#")[0]))
        if path.startswith("docs/") and path.endswith((".md", ".png", ".json")):
            return link[0]
        return f"[{words}]({repository}/blob/main/{path})" if repository else words

    return LINK.sub(changed, text)


def on_page_markdown(markdown: str, page: Any, **unused: Any) -> str:
    """What mkdocs calls with each page."""
    return outside(markdown, page.file.src_uri, os.environ.get("LUVC_REPOSITORY", "").rstrip("/"))
